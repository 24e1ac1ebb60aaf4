"""An elastic supernet made from a trained network: every width, depth and bit-width of it on one set of weights.

Channels are sorted by importance and the first ones kept (Cai et al. 2020); training follows the sandwich rule with in-place
distillation (Yu and Huang 2019): the first plan of a step learns the labels, the others its softened answers.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.compose import compose, replace
from evaluators.layers import layer_of
from evaluators.quantise import quantise_layer
from evaluators.saliency import Ranking
from evaluators.slicing import restate
from evaluators.supernets.distilling import accumulate
from evaluators.supernets.layout import Layout, layout_of
from evaluators.supernets.norms import put_switches, switch_name, switches
from evaluators.supernets.optimiser import ActiveSGD, Box, StepRule, restore
from evaluators.supernets.sorting import sorted_by_importance
from search_spaces.plan import CompressionPlan


class ElasticSupernet:
    """Plans may hold widths of elastic groups, skipped blocks and bits; `refused` names the groups that stay whole, and why.

    Weights are rounded by steps fitted to the shared weights whenever a view is taken; activations are rounded once their ranges
    are set, which is before a measurement and not while training. private_norms: how many units groups may keep, where every
    width shall have batch-norm scales and shifts of its own. teacher: a network in eval mode whose softened answers the first
    plan of a step learns in place of labels, so that the largest one stays near it (Cai et al. 2020).
    """

    def __init__(
        self,
        model: nn.Module,
        trace: Trace,
        ranking: Ranking,
        criterion: str,
        rule: StepRule = StepRule(),  # noqa: B008 - frozen
        in_place: bool = True,
        private_norms: Mapping[str, Sequence[int]] | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self._layout: Layout = layout_of(model, trace)
        elastic = [g.name for g in trace.network.groups if g.name not in self._layout.refused]
        orders = {name: ranking.of(name, criterion) for name in elastic}
        self._trace, self._in_place, self._criterion, self._teacher = trace, in_place, criterion, teacher
        self._first = Ranking({(g.name, criterion): tuple(range(g.size)) for g in trace.network.groups})
        self.network = sorted_by_importance(model, trace, orders).requires_grad_(True)
        self._private = switches(self.network, self._layout, private_norms or {})
        self._own = {**dict(self.network.named_parameters()), **self._private}
        self._optimiser = ActiveSGD(self._own, rule)

    @property
    def refused(self) -> Mapping[str, str]:
        return self._layout.refused

    def view(self, plan: CompressionPlan) -> nn.Module:
        kept = self._kept(plan)
        boxes = self._layout.boxes(kept)
        shared = {id(p): self._part(name, p, boxes[name]) for name, p in self.network.named_parameters()}
        own = {id(b): _prefix(b, boxes[name]).clone() for name, b in self.network.named_buffers()}
        view = copy.deepcopy(self.network, {**shared, **own})
        restate(view, self._trace, kept)
        for skip in plan.skips:
            replace(view, skip.block, nn.Identity())
        for bits in plan.bits:
            if not bits.layer.startswith(_skipped(plan)):
                replace(view, bits.layer, quantise_layer(layer_of(view, bits.layer), bits))
        return view

    def extract(self, plan: CompressionPlan) -> nn.Module:
        kept = self._kept(plan)
        bare = CompressionPlan(widths=plan.widths, skips=plan.skips)
        module = compose(self.network, self._trace, self._first, bare)
        put_switches(module, self._layout.boxes(kept), self._private)
        for bits in plan.bits:
            if not bits.layer.startswith(_skipped(plan)):
                replace(module, bits.layer, quantise_layer(layer_of(module, bits.layer), bits))
        return module

    def train_step(self, plans: Sequence[CompressionPlan], images: Tensor, labels: Tensor, rate: float) -> float:
        self.zero_grad()
        mean = accumulate(self.view, plans, images, self._targets(images, labels), self._in_place)
        self.step(plans, rate)
        return mean

    def zero_grad(self) -> None:
        self._optimiser.zero_grad()

    def step(self, plans: Sequence[CompressionPlan], rate: float) -> None:
        """Move what any of the plans uses by the gradients that have been added up."""
        self._optimiser.step(self.active(plans), rate)

    def norms(self, group: str) -> tuple[str, ...]:
        """Batch normalisations, with scale and shift, of a group's channels."""
        return tuple(
            name
            for name, module in self.network.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and any(cut == group for _, cut, _ in self._layout.cuts.get(f"{name}.weight", ()))
        )

    def affine(self, norm: str, kept: Mapping[str, int]) -> tuple[Tensor, Tensor]:
        """The scale and shift that a batch normalisation has where groups keep so many units."""
        boxes = self._layout.boxes(kept)
        scale, shift = (f"{norm}.{leaf}" for leaf in ("weight", "bias"))
        parts = dict(self.network.named_parameters())
        return self._part(scale, parts[scale], boxes[scale]), self._part(shift, parts[shift], boxes[shift])

    @torch.no_grad()
    def _targets(self, images: Tensor, labels: Tensor) -> Tensor:
        return labels if self._teacher is None else self._teacher(images).softmax(1)

    def active(self, plans: Sequence[CompressionPlan]) -> dict[str, list[Box]]:
        """The parts of every parameter that any of the plans uses."""
        found: dict[str, list[Box]] = defaultdict(list)
        parameters = [name for name, _ in self.network.named_parameters()]
        for plan in plans:
            boxes, skipped = self._layout.boxes(self._kept(plan)), _skipped(plan)
            for name in (name for name in parameters if not name.startswith(skipped)):
                private = switch_name(name, boxes[name]) if boxes[name] else ""
                own, box = (private, boxes[name]) if private in self._private else (name, boxes[name])
                if box not in found[own]:
                    found[own].append(box)
        return dict(found)

    def state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        restore(self.state(), state)

    def _kept(self, plan: CompressionPlan) -> dict[str, int]:
        others = [width.criterion for width in plan.widths if width.criterion != self._criterion]
        if others:
            raise ValueError(
                f"a plan must choose channels by what sorted them ({self._criterion}), but got criterion={others[0]}; "
                "name one criterion in space.criteria"
            )
        return self._layout.kept(plan)

    def _part(self, name: str, parameter: nn.Parameter, box: Box) -> Tensor:
        """The parameter itself where it is whole, else a view of it or the switch of that size."""
        private = self._private.get(switch_name(name, box)) if box else None
        return private if private is not None else _prefix(parameter, box)


def _prefix(tensor: Tensor, box: Box) -> Tensor:
    return tensor if tuple(tensor.shape) == box else tensor[tuple(slice(size) for size in box)]


def _skipped(plan: CompressionPlan) -> tuple[str, ...]:
    return tuple(f"{skip.block}." for skip in plan.skips)
