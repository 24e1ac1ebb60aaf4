"""The one-file report holds everything and needs no network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_run import evo

from evo.result import load
from evo.studies.report import report_html


def test_report(small_search: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new/report.html"
    answer = evo(capsys, "report", small_search, "--out", file)
    assert answer.code == 0 and str(file) in answer.err
    page, result = file.read_text(), load(small_search)
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=(?!\"data:)", page)
    assert all(point.candidate_id in page and point.summary in page for point in result.front)
    wanted = ("In short", "The front", "Parallel coordinates", "Last step", "Layer by layer", "Sensitivity")
    assert not [title for title in (*wanted, "How the search went", "Configuration") if f"<h2>{title}</h2>" not in page]
    test_error = next(iter(result.finals.values()))["test_top1_error"]
    assert f"{1 - test_error:.2%}" in page and "Kendall" in page and "promote: 3" in page


def test_mistakes(small_search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, "report", small_search, "--out", "report.pdf")
    assert answer.code == 2 and "must end in .html" in answer.err
    assert evo(capsys, "report", "nowhere").code == 2


def test_names_are_escaped(small_search: Path) -> None:
    from dataclasses import replace

    result = load(small_search)
    named = replace(result, config=result.config.model_copy(update={"name": "<script>alert(1)</script>"}))
    assert "<script>alert" not in report_html(named)
