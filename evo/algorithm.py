"""The ask/tell contract. Behaviour is a frozen dataclass of hyper-parameters; all state is one frozen value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from evo.candidates import Batch, Evaluation

StateT = TypeVar("StateT")


class Algorithm(Protocol[StateT]):
    """Laws, checked by the conformance suite for every registered algorithm:

    - candidate ids are unique; every genome is legal in the problem's space;
    - `ask` and `tell` are pure: same arguments, same results, arguments unchanged;
    - the order of the evaluations given to `tell` does not matter;
    - a batch whose evaluations all failed is survived;
    - evaluations of genomes that it did not ask for are taken in or left out, never an error;
    - a state that went through `evo.storage.checkpoint` behaves like the original.
    """

    def init(self, seed: int) -> StateT: ...
    def ask(self, state: StateT) -> tuple[Batch, StateT]: ...
    def tell(self, state: StateT, evaluations: Sequence[Evaluation]) -> StateT: ...


AnyAlgorithm = Algorithm[Any]
