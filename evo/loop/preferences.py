"""Shared weights that learn which choices they prefer, and algorithms whose candidates come from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from evo.candidates import Batch


@dataclass(frozen=True)
class Preference:
    """How probable each choice is of genes that are chosen together, independently of all others: for every choice the alleles
    of these genes, and its probability."""

    genes: tuple[str, ...]
    alleles: tuple[tuple[int, ...], ...]
    probabilities: tuple[float, ...]


@runtime_checkable
class Prefers(Protocol):
    """A trainer of weights that learn preferences; those of a published version."""

    def preferences(self, version: int) -> tuple[Preference, ...]: ...


@runtime_checkable
class FollowsWeights(Protocol):
    """An algorithm whose candidates are drawn after the weights were trained: the batch that it asked for with other genomes,
    a function of its arguments alone."""

    def follow(self, state: Any, batch: Batch, preferences: tuple[Preference, ...]) -> Batch: ...


def followed(algorithm: object, state: Any, batch: Batch, trainer: object, version: int) -> Batch:
    """The batch with which an algorithm goes on after a version was published."""
    if not isinstance(algorithm, FollowsWeights):
        return batch
    if not isinstance(trainer, Prefers):
        raise ValueError(
            f"{type(algorithm).__name__} follows what shared weights prefer, but got weights without preferences; "
            "set supernet.kind=transformable"
        )
    return algorithm.follow(state, batch, trainer.preferences(version))
