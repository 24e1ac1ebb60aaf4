"""Which layers a layer or a sum gets its input from, through whatever lies between."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.network import Network


@dataclass(frozen=True)
class Join:
    """An operation that reads the outputs of several layers; `activation` is its result, `block` where it lies in one."""

    producers: tuple[str, ...]
    activation: int
    block: str


@dataclass(frozen=True)
class Flow:
    """producers: for every layer those whose outputs reach it; none for what reads the network's input alone."""

    producers: dict[str, tuple[str, ...]]
    joins: tuple[Join, ...]


def flow_of(network: Network) -> Flow:
    origins: dict[int, frozenset[str]] = {}
    producers = {layer.name: frozenset[str]() for layer in network.layers}
    joins = []
    for step in network.steps:
        given = [origins.get(index, frozenset()) for index in step.reads]
        reached = frozenset().union(*given)
        if step.layer:
            producers[step.layer] |= reached
        elif step.makes and sum(bool(names) for names in given) > 1:
            joins.append(Join(tuple(sorted(reached)), step.makes[0], step.block))
        origins.update(dict.fromkeys(step.makes, frozenset({step.layer}) if step.layer else reached))
    return Flow({name: tuple(sorted(names)) for name, names in producers.items()}, tuple(joins))
