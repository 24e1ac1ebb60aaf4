"""The tracker against a real MLflow on SQLite, and against one that is not there."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from evo.front import FrontPoint, plan_summary
from evo.tracking.tracker import PICTURE, MlflowTracker
from evo.views.progress import Progress, SearchInfo
from search_spaces.plan import Bits, CompressionPlan, Width

BASELINE = {"baseline.top1_error": "0.05", "baseline.macs": "2e+06"}
EXAMPLE = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)
LOAD = """
import sys, mlflow.pytorch, torch
mlflow.set_tracking_uri(sys.argv[1])
module = mlflow.pytorch.load_model(sys.argv[2])
assert "evo" not in sys.modules
print(repr(module(torch.linspace(-1, 1, 24).reshape(3, 8)).sum().item()))
"""


def network(candidate_id: str) -> torch.nn.Module:
    torch.manual_seed(int(candidate_id[1:]))
    return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).eval()


def load_model(candidate_id: str) -> tuple[torch.nn.Module, np.ndarray]:
    return network(candidate_id), EXAMPLE


def point(number: int, step: str = "step2") -> FrontPoint:
    plan = CompressionPlan(widths=(Width("g", 4),), bits=(Bits("l", 2 + number),))
    values = {"top1_error": 0.1 + 0.1 * number, "macs": 1e6 / (1 + number)}
    return FrontPoint(f"c{number}", number, step, values, values | {"params": 10.0}, plan, plan_summary(plan))


def progress(generation: int, front: tuple[FrontPoint, ...] = ()) -> Progress:
    return Progress(generation, generation, 10 * generation, 1, 2.0, 0.5 + generation, tau=0.8, front=front)


def info(**params: str) -> SearchInfo:
    return SearchInfo("digits", "runs/x", params, {"top1_error": 0.05, "macs": 2e6})


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def history(client: MlflowClient, run_id: str, name: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}


def children(client: MlflowClient, run_id: str) -> dict[str, mlflow.entities.Run]:
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.tags["candidate_id"]: run for run in found}


def models(client: MlflowClient, run_id: str) -> dict[str, mlflow.entities.LoggedModel]:
    """What the model pages of MLflow 3 list, by name."""
    return {model.name: model for model in client.search_logged_models([client.get_run(run_id).info.experiment_id])}


def test_interrupted_and_resumed_search_is_one_run_with_a_loadable_model_per_front_member(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = MlflowTracker(uri, load_model=load_model)
    first.on_start(info(population="8", generations="2"))
    for generation in (0, 1):
        first.on_round(progress(generation))
        first.on_round(progress(generation))
    first.on_end(progress(1, (point(9),)), "interrupted")
    client = MlflowClient(uri)
    assert client.get_run(first.run_id).info.status == "KILLED"

    second = MlflowTracker(
        uri,
        run_id=first.run_id,
        load_model=load_model,
        texts=lambda: {"explanation.html": "<p>why</p>", "trust.txt": "Kendall's tau 0.74"},
        draw=lambda file: file.write_bytes(b"a sheet of images") and None,
    )
    second.on_start(info(population="8", generations="4"))
    second.on_round(progress(2))
    second.on_end(progress(3, (point(0), point(1))), "finished")

    assert second.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"population": "8", "generations": "2"} | BASELINE
    assert run.data.tags["resumed.generations"] == "4"
    assert history(client, run.info.run_id, "hypervolume") == {g: 0.5 + g for g in range(4)}
    assert "worker_use" not in run.data.metrics  # it was never known
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {
        "front.parquet",
        "front.html",
        "front.png",
        "explanation.html",
        "trust.txt",
        "translations.png",
    }
    assert Path(client.download_artifacts(run.info.run_id, "trust.txt")).read_text() == "Kendall's tau 0.74"
    assert run.info.artifact_uri.startswith((tmp_path / "mlruns").as_uri())
    table = pq.read_table(client.download_artifacts(run.info.run_id, "front.parquet", str(tmp_path)))
    assert table["candidate_id"].to_pylist() == ["c0", "c1"]

    members = children(client, run.info.run_id)
    assert set(members) == {"c0", "c1"}
    child = members["c1"]
    assert child.info.run_name == "c1 top1_error 20.00 %, macs 0.25x"
    assert child.data.metrics == {"top1_error": 0.2, "macs": 5e5, "macs_x": 0.25, "params": 10.0}
    assert child.data.params["mean_weight_bits"] == "3"
    model = models(client, run.info.run_id)["c1"]
    assert model.status == "READY" and {metric.key: metric.value for metric in model.metrics} == child.data.metrics
    plan = Path(client.download_artifacts(child.info.run_id, "plan.json", str(tmp_path))).read_text()
    assert CompressionPlan.from_json(plan) == point(1).plan
    printed = subprocess.run(
        [sys.executable, "-c", LOAD, uri, f"models:/{model.model_id}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert printed.returncode == 0, printed.stderr
    with torch.no_grad():
        expected = network("c1")(torch.linspace(-1, 1, 24).reshape(3, 8)).sum().item()
    assert float(printed.stdout) == pytest.approx(expected, rel=1e-5)
    assert not warnings_of(caplog)


def test_a_longer_search_replaces_the_members_that_left_the_front(uri: str) -> None:
    tracker = MlflowTracker(uri, load_model=load_model)
    tracker.on_start(info())
    tracker.on_end(progress(1, (point(0), point(1))), "finished")
    kept = children(MlflowClient(uri), tracker.run_id)["c1"].info.run_id
    again = MlflowTracker(uri, run_id=tracker.run_id, load_model=load_model)
    again.on_start(info())
    again.on_end(progress(2, (point(1, "final"), point(2))), "finished")
    members = children(MlflowClient(uri), tracker.run_id)
    assert set(members) == {"c1", "c2"}
    assert members["c1"].info.run_id == kept
    assert members["c1"].data.tags["step"] == "final"
    assert set(models(MlflowClient(uri), tracker.run_id)) == {"c1", "c2"}


def test_picks_get_the_measures_of_the_last_step(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tuned: list[str] = []

    def draw(file: Path) -> None:
        file.write_text(",".join(tuned))

    tracker = MlflowTracker(uri, draw=draw)
    tracker.on_start(info())
    tracker.on_end(progress(1, (point(0), point(1))), "finished")
    tuned.append("c1")
    tracker.on_finals({"c1": {"test_top1_error": 0.25, "epochs": 5.0}, "c9": {"test_top1_error": 0.5}})
    picture = Path(MlflowClient(uri).download_artifacts(tracker.run_id, PICTURE, str(tmp_path))).read_text()
    assert picture == "c1", "drawn again, with what was tuned"
    found = {name: run.data.metrics for name, run in children(MlflowClient(uri), tracker.run_id).items()}
    assert found["c1"]["final.test_top1_error"] == 0.25 and found["c1"]["final.epochs"] == 5.0
    assert not any(name.startswith("final.") for name in found["c0"])
    assert not warnings_of(caplog)


def test_a_network_that_cannot_be_exported_costs_its_model_only(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(candidate_id: str) -> tuple[torch.nn.Module, np.ndarray]:
        raise ValueError(f"{candidate_id} has an odd shape")

    tracker = MlflowTracker(uri, load_model=broken)
    tracker.on_start(info())
    tracker.on_end(progress(1, (point(0), point(1))), "finished")
    assert set(children(MlflowClient(uri), tracker.run_id)) == {"c0", "c1"}
    assert MlflowClient(uri).get_run(tracker.run_id).info.status == "FINISHED"
    assert warnings_of(caplog) == ["MLflow has no model of 2 front members, first c0: c0 has an odd shape"]


def test_a_run_id_of_another_store_starts_a_new_run(uri: str) -> None:
    tracker = MlflowTracker(uri, run_id="0" * 32)
    tracker.on_start(info())
    tracker.on_end(progress(0), "finished")
    assert MlflowClient(uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_server_that_is_down_costs_one_warning_and_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        tracker = MlflowTracker(f"http://127.0.0.1:{closed.getsockname()[1]}", load_model=load_model)
        began = time.monotonic()
        tracker.on_start(info())
        for generation in range(3):
            tracker.on_round(progress(generation))
        tracker.on_end(progress(3, (point(0),)), "finished")
    assert time.monotonic() - began < 15
    assert tracker.run_id == ""
    assert len(warnings_of(caplog)) == 1


def test_a_server_that_never_answers_does_not_hold_up_the_search(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracker = MlflowTracker(address, start_patience=0.5, end_patience=0.5)
        began = time.monotonic()
        tracker.on_start(info())
        tracker.on_round(progress(0))
        tracker.on_end(progress(1), "finished")
        assert time.monotonic() - began < 5
    assert [text.split(" at ")[0] for text in warnings_of(caplog)] == ["The search goes on without MLflow"]


def test_what_was_not_written_while_mlflow_was_away_is_written_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    tracker = MlflowTracker(f"sqlite:///{folder}/mlflow.db")
    blocker = tmp_path / "later"
    blocker.write_text("a file where the folder should be")
    tracker.on_start(info())
    assert tracker.run_id == ""
    tracker.on_round(progress(0))
    tracker.on_round(progress(1))
    blocker.unlink()
    folder.mkdir()
    tracker.on_end(progress(2), "finished")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert history(client, tracker.run_id, "evaluations") == {0: 0.0, 1: 10.0, 2: 20.0}
