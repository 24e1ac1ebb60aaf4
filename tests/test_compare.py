"""Comparisons against counts by hand, and what people see of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import evo, settings
from test_summary import result

from evo.result import Result, load
from evo.views import compare as comparing
from evo.views.compare import compare, parse_reference
from evo.views.marks import absolute_marks, parse_marks
from evo.views.terminal_plot import BLOCKS, front_plot, history_line, sparkline


def runs(monkeypatch: pytest.MonkeyPatch, **results: Result) -> list[str]:
    """Results that `compare` finds under their names."""
    named = {name: replace(found, run_dir=f"runs/{name}") for name, found in results.items()}
    monkeypatch.setattr(comparing, "load", lambda run_dir: named[run_dir])
    return list(results)


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fronts (error, size): 3 points (0, 3) (1, 2) (2, 1), and 2 points (0, 2) (1, 1), up to (4, 4).
    found = compare(runs(monkeypatch, three=result(3, (4.0, 4.0)), two=result(2, (3.0, 3.0))))
    assert dict(found.reference) == {"error": 4.0, "size": 4.0}
    three, two = found.runs
    assert three.hypervolume == pytest.approx((4 * 1 + 3 * 1 + 2 * 1) / 16)
    assert two.hypervolume == pytest.approx((4 * 2 + 3 * 1) / 16)
    assert found.coverage == ((1.0, 0.0), (1.0, 1.0))
    surfaces = found.attainment["error over size"]
    assert surfaces["best"] == [(1.0, 1.0), (2.0, 0.0)] and surfaces["worst"] == [(1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]
    assert three.curve[-1] == (3, three.hypervolume)


def test_a_given_reference_counts_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    names = runs(monkeypatch, three=result(3), two=result(2))
    found = compare(names, parse_reference("error=2, size=3"))
    assert [run.hypervolume for run in found.runs] == pytest.approx([1 * 1 / 6, (2 * 1 + 1 * 1) / 6])
    with pytest.raises(ValueError, match="must bound every objective once"):
        compare(names, {"error": 2.0})


def test_command(small_search: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    other = Path(shutil.copytree(small_search, tmp_path / "other"))
    both = ("compare", small_search, other)
    found = json.loads(evo(capsys, *both, "--json").out)
    assert found["coverage"] == [[1.0, 1.0], [1.0, 1.0]]
    assert found["runs"][0]["hypervolume"] == pytest.approx(load(small_search).history[-1][1])
    assert "hypervolume" in evo(capsys, *both, "--plot", tmp_path / "new/compare.html").out
    assert evo(capsys, *both, "--plot", tmp_path / "new/compare.png").code == 0
    page = (tmp_path / "new/compare.html").read_text()
    assert not re.search(r"<(script|img|iframe)[^>]*\bsrc\s*=", page) and "median attained" in page
    assert (tmp_path / "new/compare.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes(small_search: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    alone = evo(capsys, "compare", small_search)
    assert alone.code == 2 and "two runs or more" in alone.err
    wrong = evo(capsys, "compare", small_search, small_search, "--reference", "top1_error")
    assert wrong.code == 2 and "--reference must look like" in wrong.err
    with pytest.raises(ValueError, match="must have the same objectives"):
        compare(runs(monkeypatch, toy=result(3), small=load(small_search)))


def test_front_on_a_terminal(small_search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = evo(capsys, "front", small_search, "--mark", "target:top1_error=0.5,macs=0.5x")
    assert shown.code == 0 and "1: target" in shown.out and "hypervolume" in shown.out
    lines = [line for line in shown.out.splitlines() if line.startswith(" │")]
    assert len(lines) == 14 and sum(line.count("K") for line in lines) == 1 == sum(line.count("B") for line in lines)


def test_plots_of_characters() -> None:
    assert sparkline([0.0, 1.0, 2.0]) == f"{BLOCKS[0]}{BLOCKS[4]}{BLOCKS[7]}" and sparkline([]) == ""
    assert len(sparkline([float(i) for i in range(500)], 40)) == 40
    assert "none yet" in history_line([]) and "0.5000 after 9 evaluations" in history_line([(3, 0.2), (9, 0.5)])
    plot = front_plot(result(3).front, {}).splitlines()
    assert plot[1].startswith(" │•") and plot[14].rstrip().endswith("•")  # small and bad, large and good
    assert "no point yet" in front_plot((), {})


@pytest.mark.parametrize(
    "texts", [["published"], ["published:"], [":macs=1"], ["p:macs"], ["p:macs=half"], ["p:latency=0.5x"]]
)
def test_marks_that_cannot_be_read(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"mark .*, but got .*; "):
        absolute_marks(parse_marks(texts), {"macs": 8.0})


def test_marks_of_a_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from evo.config.checks import check
    from evo.config.schema import validate

    config = validate({**settings(None), "tracking": {"tracker": "none", "marks": {"paper": {"mac": 1}}}})
    with pytest.raises(ValueError, match="did you mean 'macs'"):
        check(config, ("macs", "top1_error"))
    marks = absolute_marks(parse_marks(["paper:top1_error=0.09,macs=0.5x"]), {"macs": 8.0})
    assert marks == {"paper": {"top1_error": 0.09, "macs": 4.0}}
