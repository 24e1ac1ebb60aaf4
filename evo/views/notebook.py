"""How results look in a notebook: tables and a picture of the front as HTML, no script."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from evo.front import FrontPoint, format_measure, knee, spread
from evo.views.figures import front_png, front_rows

if TYPE_CHECKING:
    from evo.result import Result

SHOWN = 20
CELL = "padding:3px 10px;border-bottom:1px solid #e3e6ec;text-align:"


def result_html(result: Result) -> str:
    """The useful part of the front as a table, and every pair of objectives as a picture."""
    points = spread(result.useful or result.front, SHOWN)
    if not points:
        return "<p>no network has been measured yet</p>"
    columns, rows = front_rows(points, result.baseline)
    best = knee(result.useful or result.front).candidate_id
    head = f"{result.config.name}: {len(result.front)} points on the front, {len(points)} shown; the knee is {best}"
    return f"<p><b>{escape(head)}</b></p>{_table(columns, rows, best)}{_picture(result)}"


def point_html(point: FrontPoint, result: Result) -> str:
    """One network: its measures against the uncompressed one, and what was done."""
    finals = result.finals.get(point.candidate_id, {})
    rows = [
        [name, format_measure(name, value, result.baseline.get(name))]
        for name, value in {**point.measures, **{f"{name} (last step)": v for name, v in finals.items()}}.items()
    ]
    title = f"<p><b>{escape(point.candidate_id)}</b>: {escape(point.summary)}</p>"
    return title + _table(["measure", "value"], rows, "")


def _table(columns: list[str], rows: list[list[str]], marked: str) -> str:
    head = "".join(f'<th style="{CELL}left">{escape(name)}</th>' for name in columns)
    lines = []
    for row in rows:
        style = ' style="background:#fff6e5;color:#1d2433"' if row[0] == marked else ""
        cells = "".join(f'<td style="{CELL}left">{escape(value)}</td>' for value in row)
        lines.append(f"<tr{style}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _picture(result: Result) -> str:
    picture = io.BytesIO()
    front_png(result.front, result.baseline, picture, result.config.name, result.marks)
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img alt="Pareto front" style="max-width:100%" src="data:image/png;base64,{data}">'
