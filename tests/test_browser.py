"""The pages in a real browser: drawn, without errors, and answering to the mouse. Left out where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evo.result import load
from evo.studies.explain import explanation_page
from evo.studies.report import report_html
from evo.views.figures import front_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["front", "explanation", "report"])
def test_page(kind: str, browser: Any, small_search: Path, tmp_path: Path) -> None:
    result = load(small_search)
    made = {
        "front": lambda: front_html(result.front, result.baseline, "small"),
        "explanation": lambda: explanation_page(result),
        "report": lambda: report_html(result),
    }
    file = tmp_path / f"{kind}.html"
    file.write_text(made[kind](), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector(".plotly-graph-div .main-svg")
    assert not errors and requests == [file.as_uri()]
    mark = ".scatterlayer .trace path.point" if kind != "explanation" else ".barlayer .point path"
    page.locator(mark).first.scroll_into_view_if_needed()
    box = page.locator(mark).first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    text = page.locator(".hoverlayer .hovertext").first.text_content()
    assert ("stem" in text) if kind == "explanation" else any(p.candidate_id in text for p in result.front)
    page.close()
