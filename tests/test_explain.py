"""Explanations agree with what the search itself computed, and come as table, JSON, page and picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from small_run import evo

from evo.candidates import STEP1, STEP2
from evo.result import Result, load
from evo.studies.explain import explain


@pytest.fixture(scope="module")
def result(small_search: Path) -> Result:
    return load(small_search)


def test_losses_of_layers_sum_to_what_step_1_stored(result: Result) -> None:
    explanations, _ = explain(result, result.front)
    scored = {p.candidate_id: result.evaluation(p.candidate_id, STEP1) for p in result.front}
    pairs = [(e, scored[e.point.candidate_id]) for e in explanations]
    assert len([s for _, s in pairs if s is not None]) > 1
    for explanation, stored in pairs:
        if stored is not None:
            expected = stored.measures["predicted_loss_increase"]
            assert sum(s.loss for s in explanation.layers) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_bytes_and_channels_follow_the_plan(result: Result) -> None:
    for explanation in explain(result, result.front)[0]:
        plan = explanation.point.plan
        bits = {b.layer: b.weight for b in plan.bits}
        factored = {f.layer for f in plan.factors}
        for story in explanation.layers:
            if story.name in factored or story.skipped:
                continue
            cut = story.outputs_kept * story.inputs_kept / (story.outputs * story.inputs)
            assert story.bytes_left == pytest.approx(cut * bits.get(story.name, 32) / 32)
            assert story.macs_left == pytest.approx(cut)
        assert sum(story.weights_share for story in explanation.layers) == pytest.approx(1.0)


def test_every_layer_is_decided_on_or_has_a_reason(result: Result) -> None:
    stories = [s for e in explain(result, result.front)[0] for s in e.layers]
    assert all(bool(story.decision) != bool(story.left_because) for story in stories)
    assert all(story.left_because == "space.keep leaves it alone" for story in stories if story.name == "head")
    others = [s.left_because for s in stories if s.left_because and s.name != "head"]
    assert all(re.search(r"\d+ of \d+ points of the front change it", text) for text in others)


def test_sensitivity_falls_with_bits_and_width(result: Result) -> None:
    _, known = explain(result, ())
    assert {s.kind for s in known} == {"width", "weight_bits", "factor", "skip"}
    for sensitivity in known:
        if sensitivity.kind in ("width", "weight_bits"):
            assert list(sensitivity.losses) == sorted(sensitivity.losses, reverse=True)
            assert sensitivity.losses[-1] == 0.0 < sensitivity.losses[0]


def test_command(result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knee = result.pick("knee").point
    text = evo(capsys, "explain", result.run_dir)
    assert text.code == 0 and knee.candidate_id in text.out and "block1.conv1" in text.out
    found = json.loads(evo(capsys, "explain", result.run_dir, "--json").out)
    assert [layer["name"] for layer in found["layers"]][:2] == ["stem", "block1.conv1"]
    assert {s["kind"] for s in found["sensitivity"]} > {"width", "weight_bits"}
    page, picture = tmp_path / "new/why.html", tmp_path / "new/why.png"
    assert evo(capsys, "explain", result.run_dir, "--plot", page).code == 0
    assert evo(capsys, "explain", result.run_dir, "--plot", picture).code == 0
    html = page.read_text()
    assert not re.search(r"<(script|img|iframe)[^>]*\bsrc\s*=", html)
    assert all(p.candidate_id in html for p in result.useful) and "Sensitivity" in html
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_told_before_any_work(result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = evo(capsys, "explain", result.run_dir, "--pick", "kneee")
    assert wrong.code == 2 and "'kneee'" in wrong.err and len(wrong.err.splitlines()) == 1
    ending = evo(capsys, "explain", result.run_dir, "--plot", tmp_path / "why.pdf")
    assert ending.code == 2 and "must end in .html or .png" in ending.err


def test_without_step_1_tables_decisions_are_still_explained(result: Result, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(result.run_dir, tmp_path / "run"))
    (run / "models/step1.safetensors").unlink()
    (explanation,), known = explain(load(run), [result.pick("knee").point])
    assert known == () and all(not story.predicted for story in explanation.layers)
    assert any(story.decision for story in explanation.layers)
    assert result.evaluation(explanation.point.candidate_id, STEP2) is not None
