"""Say what can be searched in a network, what cannot and why, and what binds on a device, before any long work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.compression import MEASURES
from evaluators.describe import trace
from evaluators.gan.evaluator import MEASURES as PAIR_MEASURES
from evaluators.gan.fid import MISSING as FID_MISSING
from evaluators.layers import Example
from evaluators.load import load_weights
from evaluators.loss_tables import LossTables
from evaluators.prepare import prepared
from evo.config.schema import Config
from evo.studies.classifier import build_algorithm, build_problem, check_names, check_outputs, climbing
from evo.studies.inputs import check_kept, load_splits, network_of, space_of
from evo.studies.of_generators import pair_algorithm
from evo.studies.translation import inception_of, pair_problem, untrained
from evo.variation.reachable import smallest
from evo.views.bottleneck import Bottleneck, Load, Target, find_bottleneck, loads
from search_spaces.costs import costs
from search_spaces.network import Network
from search_spaces.phenotype import full
from search_spaces.space import CompressionSpace

GROUP_GENES = ("width", "criterion")
REACHABLE = ("size_bytes", "macs", "peak_activation_bytes")


def examine(config: Config, target: Target | None = None) -> dict[str, Any]:
    """The report as plain data: costs, channel groups and layers with their shares, residual blocks, what stays dense, and
    for a target what binds there."""
    check_names(config)
    if config.cells is not None:
        raise ValueError(
            "evo doctor examines a given network, but got a section cells; there is none before the search"
        )
    space, total = (_of_classifier if config.gan is None else _of_pair)(config)
    network = space.network
    layers = loads(network)
    shares = {load.name: _shares(load, total) for load in layers}
    genes = _genes_by_place(space)
    report: dict[str, Any] = {
        "costs": total,
        "genes": len(space.genes),
        "groups": [
            {
                "name": g.name,
                "channels": g.size * g.unit,
                "units": g.size,
                "producers": g.producers,
                **_together({*g.producers, *g.consumers}, shares),
                "genes": [gene for gene in genes.get(g.name, []) if gene.startswith(GROUP_GENES)],
            }
            for g in network.groups
        ],
        "layers": _layers(network, genes, shares),
        "blocks": [{"name": b.name, "layers": b.layers, "genes": genes.get(b.name, [])} for b in network.blocks],
        "dense": [{"producers": d.name, "channels": d.channels, "reason": d.reason} for d in network.dense],
        "smallest": reachable(space),
    }
    if config.gan is not None and config.gan.inception is None:
        report["missing"] = [FID_MISSING]
    if target is not None:
        report["target"] = _on_target(layers, total, report["smallest"], target)
    return report


def _of_classifier(config: Config) -> tuple[CompressionSpace, dict[str, float]]:
    """The space of a configuration and the uncompressed network's costs, once all that a search would refuse is refused."""
    splits = load_splits(config, None)
    example = splits.prepare(splits.train.images[:1], torch.device("cpu"))
    model = network_of(config, None, splits)
    if config.model.weights is not None:
        load_weights(model, config.model.weights)
    model = prepared(model.eval(), example)
    space, total = _traced(config, model, example)
    check_outputs(model, example, splits)
    _check_search(config, space, total)
    return space, total


def _of_pair(config: Config) -> tuple[CompressionSpace, dict[str, float]]:
    """The same of a pair of generators."""
    inception_of(config)
    model, example = untrained(config)
    space, total = _traced(config, model, example)
    baseline = {**dict.fromkeys(PAIR_MEASURES, np.nan), **total}
    pair_algorithm(config, pair_problem(config, space, baseline), space, baseline)
    return space, total


def _traced(config: Config, model: nn.Module, example: Example) -> tuple[CompressionSpace, dict[str, float]]:
    network = trace(model, example).network
    check_kept(config, [layer.name for layer in network.layers])
    total = {name: float(value[0]) for name, value in costs(network, full(network, 1), peak=True).items()}
    return space_of(config, network, model), total


def _check_search(config: Config, space: CompressionSpace, total: Mapping[str, float]) -> None:
    """Refuse what a search would refuse after its step-1 tables; measures of real networks are unknown here."""
    tables = LossTables(space, (), peak=True)
    baseline = {**dict.fromkeys(MEASURES, np.nan), **total}
    build_algorithm(climbing(config), build_problem(config, space, tables, baseline), tables, baseline)


def reachable(space: CompressionSpace) -> dict[str, float]:
    """The least of each cost that a genome of the space has; of activation memory, that of the narrowest widths."""

    def cost(measure: str, codes: np.ndarray) -> np.ndarray:
        return costs(space.network, space.phenotypes(codes))[measure]

    narrowest = np.zeros((1, len(space.genes)), dtype=np.int64)
    peak = costs(space.network, space.phenotypes(narrowest), peak=True)["peak_activation_bytes"]
    least = {name: smallest(space, partial(cost, name)) for name in REACHABLE[:2]}
    return {**least, REACHABLE[2]: float(peak[0])}


def _genes_by_place(space: CompressionSpace) -> dict[str, list[str]]:
    genes: dict[str, list[str]] = {}
    for gene in space.genes:
        kind, _, place = gene.name.partition(":")
        genes.setdefault(place, []).append(f"{kind} x{gene.cardinality}")
    return genes


def _shares(load: Load, total: Mapping[str, float]) -> dict[str, float]:
    """Shares of the whole network's weights and MACs; activations alive while the layer runs relative to the peak."""
    return {
        "params_share": load.weights / total["params"],
        "macs_share": load.macs / total["macs"],
        "activation_share": load.alive / total["peak_activation_bytes"],
    }


def _together(layers: Iterable[str], shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Shares of the layers that narrowing a group acts on: sums, and of activations the largest."""
    found = [shares[layer] for layer in sorted(layers) if layer in shares]
    summed = {name: sum(share[name] for share in found) for name in ("params_share", "macs_share")}
    return {**summed, "activation_share": max((share["activation_share"] for share in found), default=0.0)}


def _layers(
    network: Network, genes: Mapping[str, list[str]], shares: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    return [
        {
            "name": layer.name,
            "shape": f"{layer.in_channels}->{layer.out_channels} {layer.kernel[0]}x{layer.kernel[1]}",
            **shares[layer.name],
            "genes": [g for g in genes.get(layer.name, []) if not g.startswith(GROUP_GENES)],
        }
        for layer in network.layers
    ]


def _on_target(
    layers: tuple[Load, ...], total: Mapping[str, float], least: Mapping[str, float], target: Target
) -> dict[str, Any]:
    found = find_bottleneck(layers, total, target)
    return {
        "device": asdict(target),
        "needs": [{**asdict(need), "ratio": need.ratio} for need in found.needs],
        "binding": found.binding,
        "compute_share": found.compute_share,
        "objectives": list(found.objectives),
        "constraints": [
            {"measure": name, "upper": upper, "smallest": least.get(name)} for name, upper in found.constraints
        ],
        "advice": advice(found, least),
    }


def advice(found: Bottleneck, least: Mapping[str, float]) -> list[str]:
    """Sentences for people, the most important one first."""
    over = [need for need in found.needs if (need.ratio or 0.0) > 1.0]
    said = []
    if found.binding is None:
        said.append("no limit is stated, so nothing binds: give --flash, --ram or --deadline-ms")
    elif not over:
        said.append(f"the uncompressed network fits; {found.binding} is closest to its limit")
    else:
        said += [
            f"{need.resource} binds: {need.ratio:.2f} times what there is; lower {', '.join(need.measures)}"
            for need in sorted(over, key=lambda need: -(need.ratio or 0.0))
        ]
    for measure, upper in found.constraints:
        if least.get(measure, 0.0) > upper:
            said.append(
                f"{measure}<={upper:g} is out of reach of this space, whose smallest network has {least[measure]:g}: "
                "allow smaller widths, fewer bits or more decomposition in space"
            )
    return said
