"""Say what can be searched in a network, what cannot and why, before any long work."""

from __future__ import annotations

from typing import Any

from evaluators.describe import trace
from evo.build import check_names
from evo.config import Config
from evo.inputs import device_of, load_splits, new_model, space_of
from search_spaces.costs import costs
from search_spaces.network import Network
from search_spaces.phenotype import full

GROUP_GENES = ("width", "criterion")


def examine(config: Config) -> dict[str, Any]:
    """The report as plain data: costs, channel groups, layers with their share, residual blocks, and what stays dense."""
    check_names(config)
    splits = load_splits(config, None)
    network = trace(new_model(config), splits.prepare(splits.train.images[:1], device_of(config))).network
    space = space_of(config, network)
    total = {name: float(value[0]) for name, value in costs(network, full(network, 1), peak=True).items()}
    genes: dict[str, list[str]] = {}
    for gene in space.genes:
        kind, _, place = gene.name.partition(":")
        genes.setdefault(place, []).append(f"{kind} x{gene.cardinality}")
    return {
        "costs": total,
        "genes": len(space.genes),
        "groups": [
            {
                "name": g.name,
                "channels": g.size,
                "producers": g.producers,
                "genes": [gene for gene in genes.get(g.name, []) if gene.startswith(GROUP_GENES)],
            }
            for g in network.groups
        ],
        "layers": _layers(network, genes, total),
        "blocks": [{"name": b.name, "layers": b.layers, "genes": genes.get(b.name, [])} for b in network.blocks],
        "dense": [{"producers": d.name, "channels": d.channels, "reason": d.reason} for d in network.dense],
    }


def _layers(network: Network, genes: dict[str, list[str]], total: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for layer in network.layers:
        weights = layer.in_channels // layer.groups * layer.out_channels * layer.kernel_area
        rows.append(
            {
                "name": layer.name,
                "shape": f"{layer.in_channels}->{layer.out_channels} {layer.kernel[0]}x{layer.kernel[1]}",
                "params_share": weights / total["params"],
                "macs_share": weights * layer.out_positions / total["macs"],
                "genes": [g for g in genes.get(layer.name, []) if not g.startswith(GROUP_GENES)],
            }
        )
    return rows


def show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    total = report["costs"]
    console.print(
        f"{report['genes']} genes; {total['params']:,.0f} parameters, {total['macs'] / 1e6:,.2f} M MACs",
        highlight=False,
    )
    layers = Table("layer", "shape", "params", "MACs", "choices")
    for row in report["layers"]:
        layers.add_row(
            row["name"],
            row["shape"],
            f"{row['params_share']:.1%}",
            f"{row['macs_share']:.1%}",
            ", ".join(row["genes"]) or "-",
        )
    groups = Table("channel group", "channels", "choices", "cut together")
    for row in report["groups"]:
        groups.add_row(row["name"], str(row["channels"]), ", ".join(row["genes"]) or "-", ", ".join(row["producers"]))
    console.print(layers, groups)
    for row in report["blocks"]:
        console.print(f"block {row['name']} can be skipped", highlight=False)
    for row in report["dense"]:
        console.print(f"dense: {row['channels']} channels of {row['producers']}: {row['reason']}", highlight=False)
