"""Why a front member looks as it does: per layer what was decided, what step 1 says it costs, and why the rest was left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from evo.front import FrontPoint
from search_spaces.decompositions import METHODS, parts
from search_spaces.genes import full_allele
from search_spaces.network import Layer, Network
from search_spaces.phenotype import Phenotypes, axis_sizes, of_plan
from search_spaces.plan import FLOAT_BITS, CompressionPlan
from search_spaces.space import CompressionSpace


@dataclass(frozen=True)
class LayerStory:
    """One layer in one front member. `weights_share` is of the whole uncompressed network; `bytes_left` and `macs_left` are of
    the layer itself, its weights in float32. `predicted` is the loss (nats) that step 1 expects of each kind of decision
    on this layer, before any calibration by measurements."""

    name: str
    outputs: int
    outputs_kept: int
    inputs: int
    inputs_kept: int
    weight_bits: int
    activation_bits: int
    method: str
    ranks: tuple[int, ...]
    skipped: bool
    weights_share: float
    bytes_left: float
    macs_left: float
    predicted: Mapping[str, float] = field(default_factory=dict)
    left_because: str = ""

    @property
    def loss(self) -> float:
        return float(sum(self.predicted.values()))

    @property
    def decision(self) -> str:
        """What was decided on this layer, in a few words; empty where nothing was."""
        if self.skipped:
            return "skipped with its block"
        bits = [
            f"{n} bits {what}" for what, n in (("weights", self.weight_bits), ("activations", self.activation_bits))
        ]
        used = [text for text, n in zip(bits, (self.weight_bits, self.activation_bits), strict=True) if n < FLOAT_BITS]
        width = [f"{self.outputs_kept} of {self.outputs} channels"] if self.outputs_kept < self.outputs else []
        rank = [f"{self.method} rank {'x'.join(map(str, self.ranks))}"] if self.ranks else []
        return ", ".join((*width, *rank, *used))


@dataclass(frozen=True)
class Sensitivity:
    """What step 1 predicts (nats) for every choice of one gene alone, the rest left alone; `place`: layer, group or block."""

    place: str
    kind: str
    choices: tuple[str, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Explanation:
    """A front member, layer by layer, in the network's order."""

    point: FrontPoint
    layers: tuple[LayerStory, ...]

    def to_json(self) -> dict[str, Any]:
        layers = [{**asdict(story), "decision": story.decision, "loss": story.loss} for story in self.layers]
        return {**self.point.to_json(), "layers": layers}


def explain_point(
    space: CompressionSpace,
    point: FrontPoint,
    predicted: Mapping[tuple[str, str], float],
    sensitivities: Sequence[Sensitivity],
    front: Sequence[FrontPoint],
    keep: Sequence[str],
) -> Explanation:
    """`predicted` is the loss by (layer, kind of decision), `keep` the layers that the configuration leaves alone."""
    network = space.network
    one = of_plan(network, point.plan)
    skipped = {name for skip in point.plan.skips for name in network.block(skip.block).layers}
    total = sum(_weights(layer) for layer in network.layers)
    reasons = _Reasons(space, sensitivities, tuple(other.plan for other in front), frozenset(keep))
    stories = []
    for index, layer in enumerate(network.layers):
        losses = {kind: loss for (name, kind), loss in predicted.items() if name == layer.name and loss > 0}
        stories.append(_story(network, one, index, layer.name in skipped, total, losses, reasons))
    return Explanation(point, tuple(stories))


def _story(
    network: Network,
    one: Phenotypes,
    index: int,
    skipped: bool,
    total: float,
    losses: Mapping[str, float],
    reasons: _Reasons,
) -> LayerStory:
    layer = network.layers[index]
    inputs, outputs = (int(size[0]) for size in axis_sizes(network, one, layer))
    stored, macs = (0.0, 0.0) if skipped else _left(layer, one, index, inputs, outputs)
    story = LayerStory(
        layer.name,
        layer.out_channels,
        0 if skipped else outputs,
        layer.in_channels,
        0 if skipped else inputs,
        int(one.weight_bits[0, index]),
        int(one.activation_bits[0, index]),
        METHODS[one.method[0, index]],
        tuple(int(r) for r in one.ranks[0, index] if r),
        skipped,
        _weights(layer) / total,
        stored,
        macs,
        losses,
    )
    return story if story.decision else replace(story, left_because=reasons.of(story))


def _weights(layer: Layer) -> int:
    return layer.in_channels // layer.groups * layer.out_channels * layer.kernel_area


def _left(layer: Layer, one: Phenotypes, index: int, inputs: int, outputs: int) -> tuple[float, float]:
    """Shares of the layer's weight bytes and MACs that are left."""
    made = parts(layer, METHODS[one.method[0, index]], np.array([inputs]), np.array([outputs]), one.ranks[:1, index])
    dense = _weights(layer)
    return (
        float(sum(part.weights[0] for part in made)) / dense * int(one.weight_bits[0, index]) / FLOAT_BITS,
        float(sum(part.macs[0] for part in made)) / (dense * layer.out_positions),
    )


@dataclass(frozen=True)
class _Reasons:
    """Why a layer was left as it is, from what is on record: the space, step 1's predictions, the rest of the front."""

    space: CompressionSpace
    sensitivities: Sequence[Sensitivity]
    plans: tuple[CompressionPlan, ...]
    keep: frozenset[str]

    def of(self, story: LayerStory) -> str:
        if story.name in self.keep:
            return "space.keep leaves it alone"
        if not self._places(story.name):
            dense = next((d.reason for d in self.space.network.dense if story.name in d.name), "")
            return f"nothing to choose{f': {dense}' if dense else ''}"
        return ", ".join(part for part in (self._mildest(story), self._elsewhere(story.name)) if part)

    def _places(self, layer: str) -> set[str]:
        """The layer itself and its groups, where they have genes."""
        groups = {g.name for g in self.space.network.groups if layer in g.producers}
        return {place for gene in self.space.genes for place in gene.places} & (groups | {layer})

    def _mildest(self, story: LayerStory) -> str:
        places = self._places(story.name)
        options = [
            (loss, f"{s.kind.replace('_', ' ')} {choice}")
            for s in self.sensitivities
            if s.place in places
            for choice, loss in zip(s.choices, s.losses, strict=True)
            if loss > 0
        ]
        if not options:
            return f"holds {story.weights_share:.1%} of the weights"
        loss, choice = min(options)
        return (
            f"mildest choice {choice} is predicted to cost {loss:.2g} nats for {story.weights_share:.1%} of the weights"
        )

    def _elsewhere(self, layer: str) -> str:
        groups = {g.name for g in self.space.network.groups if layer in g.producers}
        count = sum(_touches(plan, layer, groups) for plan in self.plans)
        return f"{count} of {len(self.plans)} points of the front change it"


def _touches(plan: CompressionPlan, layer: str, groups: set[str]) -> bool:
    named = {*(b.layer for b in plan.bits), *(f.layer for f in plan.factors)}
    return layer in named or bool(groups & {*(w.group for w in plan.widths), *(m.group for m in plan.masks)})


def uncompressed(space: CompressionSpace) -> np.ndarray:
    """The genome that changes nothing, codes (genes,)."""
    return np.array([full_allele(gene) for gene in space.genes], dtype=np.int64)
