"""A real tracking server over HTTP: how often it is called, what can be loaded from it, and how its pages look in a browser."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pytorch
import pytest
import requests
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from small_run import settings
from test_browser import browser
from test_tracking import children, info, load_model, network, point, progress

from evo import api
from evo.config.schema import validate
from evo.result import Result
from evo.tracking.tracker import MlflowTracker

START_S = 240
FOLDER_OF_PICTURES = os.environ.get("EVO_PICTURES")
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", *place, "--port", str(port), "--workers", "1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{url}/health", folder / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too; asked politely it takes half a minute
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request that is sent, as METHOD path."""
    made: list[str] = []
    send = requests.adapters.HTTPAdapter.send

    def counting(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        made.append(f"{request.method} {urllib.parse.urlsplit(request.url).path}")
        return send(self, request, *args, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", counting)
    return made


def _calls_of_a_search(url: str, calls: list[str], members: int, evaluations: int, models: bool = False) -> int:
    calls.clear()
    tracker = MlflowTracker(url, load_model=load_model if models else None)
    tracker.on_start(info())
    for generation in (0, 1):
        for _ in range(evaluations):
            tracker.on_evaluation(None)  # type: ignore[arg-type]
        tracker.on_round(progress(generation))
    tracker.on_end(progress(2, tuple(point(number) for number in range(members))), "finished")
    return len(calls)


def test_calls_grow_with_the_front_and_not_with_the_candidates(server: str, calls: list[str]) -> None:
    _calls_of_a_search(server, calls, 1, 1)  # makes the experiment
    few, many = _calls_of_a_search(server, calls, 2, 5), _calls_of_a_search(server, calls, 2, 5000)
    assert few == many
    four = _calls_of_a_search(server, calls, 4, 5)
    assert (four - few) % 2 == 0 and (four - few) // 2 <= 6, calls
    assert few - (four - few) <= 20, calls  # without members
    with_models = _calls_of_a_search(server, calls, 2, 5, models=True)
    assert (with_models - few) // 2 <= 16, calls  # most are files of the model


def test_a_model_is_loaded_from_the_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MlflowTracker(server, "loading", load_model=load_model)
    tracker.on_start(info())
    tracker.on_end(progress(1, (point(3),)), "finished")
    child = children(MlflowClient(server), tracker.run_id)["c3"]
    (model,) = MlflowClient(server).search_logged_models([child.info.experiment_id])
    assert model.name == "c3" and model.source_run_id == child.info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    loaded = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    images = torch.linspace(-1, 1, 24).reshape(3, 8)
    torch.testing.assert_close(loaded(images), network("c3")(images))
    assert f'load_model("models:/{model.model_id}")' in child.data.tags["mlflow.note.content"]


class Pages:
    """MLflow's pages of one search in a browser; `errors` are what its consoles said, but for MLflow's own requests."""

    def __init__(self, browser: Any, url: str, experiment: str) -> None:
        self.errors: list[str] = []
        self._browser, self._url, self._experiment = browser, url, experiment
        self._page: Any = None

    def _listen(self, message: Any) -> None:
        own = message.text.startswith("Failed to load resource") or "ResizeObserver" in message.text
        if message.type == "error" and not own:
            self.errors.append(message.text)

    def open(self, path: str) -> Any:
        return self._visit(f"experiments/{self._experiment}/{path}")

    def _visit(self, path: str) -> Any:
        if self._page is not None:  # a visit of its own: within one, MLflow would keep the artifact shown before
            self._page.close()
        self._page = self._browser.new_page(viewport={"width": 1500, "height": 1000})
        self._page.set_default_timeout(120_000)
        self._page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._page.on("console", self._listen)
        self._page.goto(f"{self._url}/#/{path}")
        return self._page

    def compare(self, runs: list[str]) -> Any:
        wanted = {"runs": json.dumps(runs), "experiments": json.dumps([self._experiment])}
        return self._visit(f"compare-runs?{urllib.parse.urlencode(wanted, quote_via=urllib.parse.quote)}")

    def shoot(self, name: str) -> None:
        """Keep a picture for people where they ask for it."""
        if FOLDER_OF_PICTURES:
            self._page.wait_for_timeout(3000)
            self._page.screenshot(path=Path(FOLDER_OF_PICTURES, f"{name}.png"))

    def artifact(self, run_id: str, name: str) -> Any:
        return self.open(f"runs/{run_id}/artifacts/{name}").frame_locator("iframe")


def tracked(server: str, folder: Path) -> Result:
    values = settings(None)
    values["model"]["pretrain"] = {"epochs": 2, "batch": 20}
    values["space"]["widths"] = [0.25, 1.0]  # so that some keep to half the MACs
    values["tracking"] = {"uri": server, "marks": {"published": {"top1_error": 0.1, "macs": "0.5x"}}}
    values["name"] = "in the browser"
    return api.run_config(validate(values), str(folder / "run"))


def runs_of(server: str, name: str) -> tuple[Run, dict[str, Run]]:
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("evo").experiment_id
    (parent,) = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    return parent, children(client, parent.info.run_id)


@pytest.mark.filterwarnings("ignore")
def test_the_pages_of_a_search(server: str, browser: Any, tmp_path: Path) -> None:
    result = tracked(server, tmp_path)
    parent, members = runs_of(server, "in the browser")
    pages = Pages(browser, server, parent.info.experiment_id)
    run_id = parent.info.run_id

    curves = pages.open(f"runs/{run_id}/model-metrics")
    for name in ("best_top1_error_at_half_macs", "hypervolume"):
        curves.get_by_text(name, exact=True).first.scroll_into_view_if_needed()
    pages.shoot("curves")

    front = pages.artifact(run_id, "front.html")
    front.get_by_text("published").first.wait_for()
    front.locator(".scatterlayer .trace path.point").first.hover(force=True)
    told = front.locator(".hoverlayer .hovertext").first.text_content()
    assert any(p.candidate_id in told for p in result.front)
    pages.shoot("front")

    why = pages.artifact(run_id, "explanation.html")
    why.locator(".barlayer .point path").first.hover(force=True)
    assert "stem" in why.locator(".hoverlayer .hovertext").first.text_content()
    pages.shoot("explanation")

    models = pages.open("models")
    for candidate in members:
        models.get_by_text(candidate, exact=True).first.wait_for()
    pages.shoot("models")

    assert len(members) > 1
    compared = pages.compare([run.info.run_id for run in members.values()])
    compared.locator(".parcoords .y-axis").first.wait_for()
    axes = compared.locator(".parcoords .axis-title").all_text_contents()
    assert "top1_error" in axes and set(axes) & {"mean_weight_bits", "groups_narrowed", "layers_quantised"}, axes
    pages.shoot("compare")
    assert pages.errors == []
