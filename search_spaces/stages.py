"""Residual blocks in a row, of which the last ones can be left out: the depth of a stage."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from search_spaces.network import Block, Network


@dataclass(frozen=True)
class Stage:
    """Blocks of which each alone reads what the one before it made, in order."""

    blocks: tuple[str, ...]

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """How many of the blocks may stay, ascending (Dong and Yang 2019, TAS, and its code): every number of at most two; of
        more, every other one up to all, and all three of 1, 2 and 3. Where a block that cannot be left out comes before them, as
        in the later stages of a ResNet, an even number stays, so that with it the stage has 1, 3, 5, ..."""
        count = len(self.blocks)
        if count <= 3:
            return tuple(range(count == 3, count + 1))
        return tuple(range(count % 2, count + 1, 2))


def stages(network: Network, skippable: Collection[str]) -> tuple[Stage, ...]:
    """The longest rows among the blocks of these names."""
    blocks = [block for block in network.blocks if block.name in skippable]
    after = {block.name: _next(network, block, blocks) for block in blocks}
    inner = {found.name for found in after.values() if found is not None}
    return tuple(Stage(_row(block, after)) for block in blocks if block.name not in inner)


def _row(block: Block, after: dict[str, Block | None]) -> tuple[str, ...]:
    following = after[block.name]
    return (block.name, *(_row(following, after) if following is not None else ()))


def _next(network: Network, block: Block, blocks: Collection[Block]) -> Block | None:
    """The block that alone reads what this one makes."""
    readers = {step.block for step in network.steps if block.output in step.reads}
    found = [b for b in blocks if b.input == block.output and b.name != block.name]
    return found[0] if len(found) == 1 and readers == {found[0].name} else None
