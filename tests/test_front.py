"""Front points: JSON, the rules of picking, the table."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from evo.front import FrontPoint, front_table, knee, pick, plan_summary
from search_spaces.plan import Bits, CompressionPlan, Factor, Skip, Width

BASELINE = {"top1_error": 0.08, "macs": 1000.0, "size_bytes": 4000.0, "latency_ms": 8.0}


def point(name: str, error: float, macs: float, size: float, latency: float = 4.0) -> FrontPoint:
    values = {"top1_error": error, "macs": macs, "size_bytes": size}
    return FrontPoint(name, 3, "step2", values, values | {"latency_ms": latency}, CompressionPlan(), "unchanged")


FRONT = (
    point("a", 0.08, 900, 3000),
    point("b", 0.10, 500, 1000, 5.0),
    point("c", 0.09, 500, 2000),
    point("d", 0.40, 100, 200, 1.0),
)


def test_json_holds_the_contract_and_no_nan() -> None:
    plan = CompressionPlan(widths=(Width("g", 4),), bits=(Bits("l", 3, 8),))
    shown = FrontPoint("a", 1, "final", {"x": 1.0}, {"x": 1.0, "y": math.inf}, plan, "s").to_json()
    read = json.loads(json.dumps(shown, allow_nan=False))
    assert {name: read[name] for name in ("candidate_id", "objectives", "measures")} == {
        "candidate_id": "a",
        "objectives": {"x": 1.0},
        "measures": {"x": 1.0, "y": None},
    }
    assert CompressionPlan.from_json(json.dumps(read["plan"])) == plan


@pytest.mark.parametrize(
    ("spec", "picked"),
    [
        ("d", "d"),
        ("macs<=0.5", "c"),  # at most 1 on a measure above 10: relative; the best in the first objective
        ("macs<=0.5x", "c"),
        ("macs<=500", "c"),
        ("macs<=0.5, size_bytes<=0.3", "b"),
        ("macs<=0.5,top1_error<=0.09", "c"),  # a small measure: absolute; the best in size_bytes, the first free one
        ("top1_error<=0.1", "c"),  # macs is the first free objective; b and c tie there and c has the smaller error
        ("top1_error<=0.5,macs<=1,size_bytes<=1", "a"),  # nothing is free: the first objective
        ("latency_ms<=0.5x", "a"),
        ("latency_ms<=1", "d"),
        ("macs>=0.9", "a"),
    ],
)
def test_pick(spec: str, picked: str) -> None:
    assert pick(FRONT, spec, BASELINE).candidate_id == picked


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("macs<=0.05,top1_error<=0.2", "nearest is d with macs=100, top1_error=0.4"),
        ("z", "ids of this front are a, b, c, d"),
        ("watts<=3", "the front has latency_ms, macs, size_bytes, top1_error"),
        ("macs<=many", "write for example macs<=0.5|candidate id, knee, or limits"),
        ("macs<=1e", "must end in a number"),
    ],
)
def test_pick_that_fails_says_what_can_be_had(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pick(FRONT, spec, BASELINE)


def test_a_relative_limit_without_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a baseline"):
        pick(FRONT, "macs<=0.5x", {})


def test_an_empty_front_is_refused() -> None:
    for spec in ("knee", "macs<=3", "a"):
        with pytest.raises(ValueError, match="the front must hold a point"):
            pick((), spec, BASELINE)


def test_knee_is_where_the_front_bends() -> None:
    bent = [point(str(i), 0.1 + 0.01 * max(0, 5 - i) + 0.2 * max(0, i - 5), 1000 - 100 * i, 10) for i in range(8)]
    straight_then_steep = knee(bent)
    assert straight_then_steep.candidate_id == "5"
    assert pick(bent, "knee", BASELINE) is straight_then_steep


def test_plan_summary() -> None:
    plan = CompressionPlan(
        widths=(Width("g", 4), Width("h", 2)),
        skips=(Skip("block"),),
        factors=(Factor("l", "svd", (3,)),),
        bits=(Bits("l", 3, 8), Bits("m", 8, 8), Bits("n")),
    )
    assert plan_summary(plan) == (
        "2 groups narrowed, weights 3-8 bits (mean 5.5), activations 8 bits, 1 layer factorised, 1 block skipped"
    )
    assert plan_summary(CompressionPlan()) == "unchanged"


def test_table_shows_costs_relative_to_the_baseline() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(front_table(FRONT, BASELINE))
    rows = [line for line in out.getvalue().splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["baseline", "a", "c", "b", "d"]
    assert "9.00 %" in rows[2]
    assert "500 (0.50x)" in rows[2]
