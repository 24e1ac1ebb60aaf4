"""MetaPruning's PruningNet (Liu et al., ICCV 2019, section 3.1): the weights of every width, generated from the widths."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.compose import compose, replace
from evaluators.fresh import reinitialise
from evaluators.saliency import Ranking
from evaluators.slicing import restate
from evaluators.supernets.distilling import accumulate
from evaluators.supernets.layout import Layout, layout_of
from evaluators.supernets.optimiser import ActiveSGD, Box, StepRule, restore
from search_spaces.network import Network
from search_spaces.plan import CompressionPlan, Width

PAPER = StepRule(momentum=0.9, weight_decay=0.0, clip=5.0)
AT = "@"  # stem.weight@second: part of what generates this tensor
PARTS = ("first", "first_bias", "second", "second_bias")
FIRST = "first"  # units are kept in their own order


class PruningNet:
    """A `Supernet` of width plans. The weight of a convolution is what two fully connected layers make of the widths around it
    (`codes`: kept shares of its own groups, or of all groups of its residual block), reshaped to the full size and cropped to
    [:outputs, :inputs]; rows that a plan crops are neither computed nor moved.

    Batch normalisations scale and shift nothing, since no scale suits all widths. Linear layers, biases and convolutions that
    no width reaches are ordinary weights. `refused` names the groups that stay whole, and why. hidden: units between the two
    layers.
    """

    def __init__(
        self,
        model: nn.Module,
        trace: Trace,
        seed: int,
        hidden: int = 32,
        rule: StepRule = PAPER,
        in_place: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        self._trace, self._in_place, self._smoothing = trace, in_place, label_smoothing
        self._layout: Layout = layout_of(model, trace)
        self._first = Ranking({(g.name, FIRST): tuple(range(g.size)) for g in trace.network.groups})
        self.network = copy.deepcopy(model)
        reinitialise(self.network, seed)
        self.network.requires_grad_(True)
        for norm in (m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.requires_grad_(False)
        self.codes = {
            f"{n}.weight": groups for n, groups in codes(trace.network, self._layout.refused).items() if groups
        }
        parameters = dict(self.network.named_parameters())
        self._own = {name: p for name, p in parameters.items() if p.requires_grad and name not in self.codes}
        for name, groups in self.codes.items():
            self._own |= _generator(name, parameters[name], len(groups), hidden)
        self._optimiser = ActiveSGD(self._own, rule)

    @property
    def refused(self) -> Mapping[str, str]:
        return self._layout.refused

    def weight(self, name: str, kept: Mapping[str, int]) -> Tensor:
        """The generated weight of a convolution, of the size that it has where groups keep so many units."""
        sizes = {group.name: group.size for group in self._trace.network.groups}
        shares = [kept.get(group, sizes[group]) / sizes[group] for group in self.codes[name]]
        first, bias, second, offset = (self._own[f"{name}{AT}{part}"] for part in PARTS)
        box = tuple(slice(size) for size in self._layout.boxes(kept)[name])
        hidden = F.relu(F.linear(first.new_tensor(shares), first, bias))
        return second[box] @ hidden + offset[box]

    def view(self, plan: CompressionPlan) -> nn.Module:
        kept = self._kept(plan)
        boxes = self._layout.boxes(kept)
        shared = {id(p): self._part(name, p, kept, boxes) for name, p in self.network.named_parameters()}
        own = {id(b): _prefix(b, boxes[name]).clone() for name, b in self.network.named_buffers()}
        view = copy.deepcopy(self.network, {**shared, **own})
        restate(view, self._trace, kept)
        for skip in plan.skips:
            replace(view, skip.block, nn.Identity())
        return view

    @torch.no_grad()
    def extract(self, plan: CompressionPlan) -> nn.Module:
        kept = self._kept(plan)
        bare = CompressionPlan(tuple(Width(w.group, w.kept, FIRST) for w in plan.widths), skips=plan.skips)
        module = compose(self.network, self._trace, self._first, bare)
        present = dict(module.named_parameters())
        for name in self.codes:
            if name in present:
                present[name].copy_(self.weight(name, kept))
        return module

    def train_step(self, plans: Sequence[CompressionPlan], images: Tensor, labels: Tensor, rate: float) -> float:
        self._optimiser.zero_grad()
        mean = accumulate(self.view, plans, images, labels, self._in_place, self._smoothing)
        self._optimiser.step(self.active(plans), rate)
        return mean

    def active(self, plans: Sequence[CompressionPlan]) -> dict[str, list[Box]]:
        """The parts of every trained tensor that any of the plans uses."""
        found: dict[str, list[Box]] = defaultdict(list)
        for plan in plans:
            boxes = self._layout.boxes(self._kept(plan))
            skipped = tuple(f"{skip.block}." for skip in plan.skips)
            for own, tensor in self._own.items():
                name, _, part = own.partition(AT)
                if not name.startswith(skipped):
                    found[own].append(_active(tuple(tensor.shape), boxes[name], part))
        return dict(found)

    def state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        restore(self.state(), state)

    def _kept(self, plan: CompressionPlan) -> dict[str, int]:
        if plan.bits:
            raise ValueError(
                f"a PruningNet makes float weights, but got bits for {plan.bits[0].layer}; set space.weight_bits and "
                "space.activation_bits to []"
            )
        return self._layout.kept(plan)

    def _part(self, name: str, parameter: nn.Parameter, kept: Mapping[str, int], boxes: Mapping[str, Box]) -> Tensor:
        return self.weight(name, kept) if name in self.codes else _prefix(parameter, boxes[name])


def codes(network: Network, refused: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """For every convolution the groups whose widths its weight is made of: those that it reads and makes and, in a residual
    block, those of the block's other layers too."""
    block_of = {layer: block for block in network.blocks for layer in block.layers}
    found = {}
    for layer in (layer for layer in network.layers if layer.kind == "conv"):
        block = block_of.get(layer.name)
        around = [network.layer(name) for name in block.layers] if block else [layer]
        terms = [term for near in around for axis in (near.in_axis, near.out_axis) for term in axis.terms]
        found[layer.name] = tuple(dict.fromkeys(group for group, _ in terms if group not in refused))
    return found


def _generator(name: str, weight: Tensor, groups: int, hidden: int) -> dict[str, nn.Parameter]:
    """Both layers, initialised as torch does it; then the second is scaled so that a whole weight begins with the spread that
    suits rectifiers (He et al. 2015). Its outputs are laid out as the weight is, so that a crop is a crop of its rows."""
    first, second = nn.Linear(groups, hidden), nn.Linear(hidden, weight.numel())
    with torch.no_grad():
        whole = second(F.relu(first(torch.ones(groups))))
        scale = math.sqrt(2 / weight[0].numel()) / whole.std()
    parts = (
        first.weight.detach(),
        first.bias.detach(),
        second.weight.detach().view(*weight.shape, hidden) * scale,
        second.bias.detach().view(weight.shape) * scale,
    )
    return {f"{name}{AT}{part}": nn.Parameter(made.to(weight.device)) for part, made in zip(PARTS, parts, strict=True)}


def _active(shape: Box, box: Box, part: str) -> Box:
    """The part of a trained tensor that a crop of the weight to `box` uses."""
    if part in PARTS[:2]:
        return shape
    return (*box, shape[-1]) if part == PARTS[2] else box


def _prefix(tensor: Tensor, box: Box) -> Tensor:
    return tensor if tuple(tensor.shape) == box else tensor[tuple(slice(size) for size in box)]
