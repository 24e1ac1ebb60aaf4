"""The doctor's report on a terminal."""

from __future__ import annotations

from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from evo.front import format_measure
from evo.views.explain_display import share_bar

BAR = 6  # characters of a share of 1


def show(report: dict[str, Any], console: Console) -> None:
    total = report["costs"]
    console.print(
        f"{report['genes']} genes; {total['params']:,.0f} parameters, {total['macs'] / 1e6:,.2f} M MACs, "
        f"{total['size_bytes'] / 1e3:,.1f} kB, activations up to {total['peak_activation_bytes'] / 1e3:,.1f} kB",
        highlight=False,
    )
    console.print(_layers(report["layers"]), _groups(report["groups"]))
    for row in report["blocks"]:
        console.print(f"block {row['name']} can be skipped", highlight=False)
    for row in report["dense"]:
        console.print(f"dense: {row['channels']} channels of {row['producers']}: {row['reason']}", highlight=False)
    for sentence in report.get("missing", []):
        console.print(f"missing: {sentence}", highlight=False)
    if "target" in report:
        _show_target(report["target"], console)
    else:
        console.print(
            "what binds on your device: evo doctor CONFIG --flash 1MB --ram 256KB --macs-per-s 200M --bandwidth 100MB",
            highlight=False,
        )


def _layers(rows: list[dict[str, Any]]) -> Table:
    table = _table("layer", "shape", "params", "MACs", "activations alive", "choices")
    for row in rows:
        table.add_row(
            row["name"],
            row["shape"],
            *(_share(row[name]) for name in ("params_share", "macs_share", "activation_share")),
            ", ".join(row["genes"]) or "-",
        )
    return table


def _groups(rows: list[dict[str, Any]]) -> Table:
    table = _table("channel group", "channels", "acts on params", "acts on MACs", "choices", "cut together")
    for row in rows:
        table.add_row(
            row["name"],
            str(row["channels"]) if row["units"] == row["channels"] else f"{row['channels']} in {row['units']}",
            *(_share(row[name]) for name in ("params_share", "macs_share")),
            ", ".join(row["genes"]) or "-",
            ", ".join(row["producers"]),
        )
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("shape", "params", "MACs", "used"))
    return table


def _share(value: float) -> str:
    return f"{value:6.1%} {share_bar(value, BAR)}"


def _show_target(target: dict[str, Any], console: Console) -> None:
    table = _table("resource", "uncompressed", "available", "used", title="On the target")
    for need in target["needs"]:
        available = "-" if need["available"] is None else _amount(need["available"], need["unit"])
        used = "-" if need["ratio"] is None else f"{need['ratio']:.2f}x {share_bar(need['ratio'], BAR)}"
        table.add_row(need["resource"], _amount(need["needed"], need["unit"]), available, used)
    console.print(table)
    if target["compute_share"] is not None:
        console.print(
            f"roofline: {target['compute_share']:.0%} of the time in layers bound by compute, the rest by bandwidth",
            highlight=False,
        )
    for sentence in target["advice"]:
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print("\nfor the configuration:", highlight=False)
    console.print(config_lines(target), highlight=False, markup=False)


def config_lines(target: dict[str, Any]) -> str:
    """The suggested objectives and constraints as YAML."""
    constraints = [{"measure": c["measure"], "upper": round(c["upper"])} for c in target["constraints"]]
    values: dict[str, Any] = {"objectives": [{"measure": name} for name in target["objectives"]]}
    if constraints:
        values["constraints"] = constraints
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None).rstrip()


def _amount(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1e3 * value:.3g} ms"
    return f"{format_measure('bytes', value)}{unit}"
