"""Figures: complete, self-contained files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evo.front import FrontPoint, knee
from evo.views.figures import front_html, front_parquet, front_png, history_png, objective_pairs
from search_spaces.plan import CompressionPlan, Width

BASELINE = {"top1_error": 0.0625, "macs": 4e6, "size_bytes": 1e6}
PNG = b"\x89PNG\r\n\x1a\n"


def front(objectives: tuple[str, ...] = ("top1_error", "macs", "size_bytes")) -> tuple[FrontPoint, ...]:
    rows = [{"top1_error": 0.1 + 0.1 * i, "macs": 4e6 / (2 + i), "size_bytes": 1e6 / (3 + i)} for i in range(4)]
    plan = CompressionPlan(widths=(Width("g", 4),))
    return tuple(
        FrontPoint(f"c{i}", i, "step2", {name: row[name] for name in objectives}, row, plan, f"plan {i}")
        for i, row in enumerate(rows)
    )


def drawn(page: str) -> tuple[list[dict], dict]:
    """Traces and layout that the page hands to Plotly.newPlot."""
    call = page[page.index("Plotly.newPlot(", page.index('<section id="s0">')) :]
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(call, call.index("["))
    layout, _ = decoder.raw_decode(call, call.index("{", end))
    return traces, layout


def test_page_needs_no_network_and_offers_every_pair() -> None:
    page = front_html(front(), BASELINE)
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=(?!\"data:)", page)
    assert "plotly.js v" in page[:8000]
    traces, layout = drawn(page)
    candidates, marked, baseline = traces
    assert candidates["x"] == [point.measures["macs"] for point in front()]
    assert candidates["marker"]["color"] == [0, 1, 2, 3]
    assert all(f"c{i}" in text and f"plan {i}" in text for i, text in enumerate(candidates["hovertext"]))
    assert marked["y"] == [knee(front()).measures["top1_error"]]
    assert (baseline["x"], baseline["y"]) == ([4e6], [0.0625])
    pairs = {tuple(button["label"].split(" over ")) for button in layout["updatemenus"][0]["buttons"]}
    assert pairs == {("top1_error", "macs"), ("top1_error", "size_bytes"), ("macs", "size_bytes")}
    moved = layout["updatemenus"][0]["buttons"][2]["args"][0]
    assert moved["y"][0] == [point.measures["macs"] for point in front()]


def test_marks_are_drawn_in_the_pairs_that_they_name() -> None:
    marks = {"published": {"top1_error": 0.09, "macs": 1e6}}
    traces, layout = drawn(front_html(front(), BASELINE, "front", marks))
    assert (traces[3]["name"], traces[3]["x"], traces[3]["y"]) == ("published", [1e6], [0.09])
    without_size = layout["updatemenus"][0]["buttons"][1]["args"][0]
    assert without_size["x"][3] == []


def test_a_maximised_objective_is_drawn_in_its_natural_direction() -> None:
    points = [
        FrontPoint(
            "a", 0, "step2", {"accuracy": -0.9, "macs": 1.0}, {"accuracy": 0.9, "macs": 1.0}, CompressionPlan(), ""
        )
    ]
    assert drawn(front_html(points, {}))[0][0]["y"] == [0.9]


@pytest.mark.parametrize("objectives", [("top1_error",), ("top1_error", "macs"), ("top1_error", "macs", "size_bytes")])
def test_png_for_any_number_of_objectives(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    front_png(front(objectives), BASELINE, str(tmp_path / "front.png"))
    assert (tmp_path / "front.png").read_bytes().startswith(PNG)
    assert len(objective_pairs(front(objectives), BASELINE)) == max(1, math.comb(len(objectives), 2))


def test_figures_of_an_empty_front_show_the_baseline(tmp_path: Path) -> None:
    assert drawn(front_html((), BASELINE))[0][2]["x"] == [4e6]
    front_png((), BASELINE, str(tmp_path / "front.png"))
    assert (tmp_path / "front.png").read_bytes().startswith(PNG)


def test_history(tmp_path: Path) -> None:
    history_png([10, 20, 30], [0.1, 0.4, 0.5], str(tmp_path / "history.png"))
    assert (tmp_path / "history.png").read_bytes().startswith(PNG)


def test_parquet_round_trip(tmp_path: Path) -> None:
    front_parquet(front(), str(tmp_path / "front.parquet"))
    rows = pq.read_table(tmp_path / "front.parquet").to_pylist()
    assert [row["candidate_id"] for row in rows] == ["c0", "c1", "c2", "c3"]
    assert rows[1]["objective.macs"] == rows[1]["measure.macs"] == 4e6 / 3
    assert CompressionPlan.from_json(rows[1]["plan"]) == front()[1].plan
