"""Results in a notebook, and in a user's typed script."""

from __future__ import annotations

from pathlib import Path

from user_script import smallest_within

from evo.result import load


def test_a_result_shows_its_front_without_scripts(small_search: Path) -> None:
    result = load(small_search)
    html = result._repr_html_()
    assert "<script" not in html and "data:image/png;base64," in html and "baseline" in html
    assert result.pick("knee").point.candidate_id in html and f"{len(result.front)} points on the front" in html


def test_a_choice_shows_its_measures_and_the_last_step(small_search: Path) -> None:
    result = load(small_search)
    (finished,) = result.finals
    html = result.pick(finished)._repr_html_()
    assert "test_top1_error (last step)" in html and "macs" in html and finished in html


def test_a_typed_script(small_search: Path) -> None:
    name, size = smallest_within(small_search, 1.0)
    assert name in {p.candidate_id for p in load(small_search).front} and size > 0
