"""What every shared-weight network offers to trainers and evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor, nn

PlanT = TypeVar("PlanT", contravariant=True)


class Supernet(Protocol[PlanT]):
    """One set of weights for all plans of a space. Raises ValueError for a plan that these weights cannot serve."""

    def view(self, plan: PlanT) -> nn.Module:
        """The plan's network on the shared weights themselves: gradients reach them, nothing is copied but the statistics of
        batch normalisations, which are the view's own."""

    def train_step(self, plans: Sequence[PlanT], images: Tensor, labels: Tensor, rate: float) -> float:
        """One optimiser step on the summed gradients of the plans, at this learning rate; the mean loss, in nats. Weights that
        no plan uses keep every bit."""

    def extract(self, plan: PlanT) -> nn.Module:
        """The plan's network with weights of its own, as small as the plan says, computing what the view computes."""

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, the optimiser's memory included; tensors of the supernet, not copies."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put a state back; afterwards training goes on as it would have from there."""
