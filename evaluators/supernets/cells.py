"""Shared weights of all networks of a cell space: every operation of every edge once (CARS: Yang et al. 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from evaluators.supernets.cell_networks import CellNetwork, Macro, chosen, every_edge
from evaluators.supernets.distilling import accumulate
from evaluators.supernets.optimiser import ActiveSGD, Box, StepRule, restore
from search_spaces.plan import CompressionPlan

CPU = torch.device("cpu")
PAPER = StepRule(momentum=0.9, weight_decay=3e-4, clip=5.0)


class CellSupernet:
    """A `Supernet` of cell plans. Without in-place distillation all plans of a step learn the labels, as in the paper; gradients
    are summed, as in its code."""

    def __init__(
        self,
        kind: type[CellNetwork],
        macro: Macro,
        rule: StepRule = PAPER,
        in_place: bool = False,
        device: torch.device = CPU,
    ) -> None:
        self._kind, self._macro, self._in_place = kind, macro, in_place
        self.network = kind(every_edge(kind), macro).to(device)
        self._parameters = dict(self.network.named_parameters())
        self._buffers = dict(self.network.named_buffers())
        self._optimiser = ActiveSGD(self._parameters, rule)

    def view(self, plan: CompressionPlan) -> nn.Module:
        return self._filled(plan, lambda parameter: parameter)

    def extract(self, plan: CompressionPlan) -> nn.Module:
        return self._filled(plan, lambda parameter: nn.Parameter(parameter.detach().clone()))

    def train_step(self, plans: Sequence[CompressionPlan], images: Tensor, labels: Tensor, rate: float) -> float:
        self._optimiser.zero_grad()
        loss = accumulate(self.view, plans, images, labels, self._in_place)
        self._optimiser.step(self.active(plans), rate)
        return loss

    def active(self, plans: Sequence[CompressionPlan]) -> dict[str, list[Box]]:
        """The parameters that any of the plans uses, each as a whole."""
        used = (name for plan in plans for name, _ in self._bare(plan).named_parameters())
        return {name: [tuple(self._parameters[name].shape)] for name in used}

    def state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        restore(self.state(), state)

    def _bare(self, plan: CompressionPlan) -> nn.Module:
        """The plan's network without any storage."""
        with torch.device("meta"):
            return self._kind(chosen(plan), self._macro)

    def _filled(self, plan: CompressionPlan, own: Callable[[nn.Parameter], nn.Parameter]) -> nn.Module:
        module = self._bare(plan)
        for path, part in module.named_modules():
            prefix = f"{path}." if path else ""
            for leaf in part._parameters:
                if part._parameters[leaf] is not None:
                    part._parameters[leaf] = own(self._parameters[prefix + leaf])
            for leaf in part._buffers:
                if part._buffers[leaf] is not None:
                    part._buffers[leaf] = self._buffers[prefix + leaf].clone()
        return module
