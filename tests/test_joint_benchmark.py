"""The benchmark of joint against separate search on a small network: each variant searches its own part, volumes by hand."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_run import settings

from benchmarks.joint_vs_separate import WITHOUT, Point, figures, reference, run, spread, study_of, volumes
from evaluators.models.small import digits_cnn
from evo.config.schema import validate

BASE = {"top1_error": 0.1, "bops": 100.0, "size_bytes": 40.0}


def test_volumes_by_hand() -> None:
    """Error 0.2 of at most 0.3, a quarter of the operations and half of the bytes: 0.1 x 0.75 x 0.5, and 0.1 x 2 x 1 halvings."""
    rows = [[3.0, 0.2, 25.0, 20.0], [5.0, 0.4, 1.0, 1.0]]
    assert volumes(rows, BASE) == pytest.approx({"share": 0.0375, "halvings": 0.2})
    assert volumes([], BASE) == {"share": 0.0, "halvings": 0.0}
    better = [[1.0, 0.2, 12.5, 20.0]]
    found = figures({"joint": {0: better, 1: rows}, "prune": {0: rows, 1: rows}}, BASE)
    assert found["joint_over_prune_halvings"] == pytest.approx((1.5 + 1) / 2)
    assert found["joint_over_prune_halvings_smallest"] == pytest.approx(1.0)


def test_networks_are_picked_along_the_useful_front() -> None:
    points = [
        Point(0, 0.1, 90, 30),
        Point(0, 0.2, 20, 10),
        Point(0, 0.15, 50, 20),
        Point(0, 0.16, 60, 25),
        Point(0, 0.4, 5, 5),
    ]
    assert spread(points, reference(BASE), 3) == [0, 2, 1]
    assert spread(points, reference(BASE), 2) == [0, 1] and spread(points[4:], reference(BASE), 2) == []


def test_every_variant_searches_its_own_part_until_its_time_is_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(digits_cnn(width=8).state_dict(), tmp_path / "weights.safetensors")
    values = settings(tmp_path / "weights.safetensors")
    values["space"] |= {"factors": ["svd"], "factor_shares": [0.5], "skip_blocks": False}
    values["objectives"] = [{"measure": m} for m in ("top1_error", "bops", "size_bytes")]
    values["algorithm"]["params"] |= {"seeds": 10, "neighbours": 10}
    config = validate(values)
    kinds = {
        name: {type(gene).__name__ for gene in study_of(config, part).space.genes} for name, part in WITHOUT.items()
    }
    assert kinds["prune"] == {"WidthGene", "CriterionGene"} and kinds["decompose"] == {"FactorGene"}
    assert kinds["quantise"] >= {"WeightBitsGene"} and not kinds["quantise"] & {"WidthGene", "FactorGene"}
    assert kinds["joint"] == kinds["prune"] | kinds["decompose"] | kinds["quantise"]

    ticks = count()
    curve = run(config, "prune_then_quantise", 3, 60.0, 2, lambda: float(next(ticks)))
    studies = list(dict.fromkeys(id(study) for study, _, _ in curve.networks))
    assert 2 <= len(studies) <= 3, "the whole network pruned, then at most two pruned ones quantised"
    for study, plan, _ in curve.networks:
        first = id(study) == studies[0]
        assert not plan.bits if first else not (plan.widths or plan.factors)
        assert first or study.baseline["macs"] <= curve.networks[0][0].baseline["macs"]
    seconds = [point.seconds for point in curve.points]
    assert seconds == sorted(seconds) and seconds[0] > 0
