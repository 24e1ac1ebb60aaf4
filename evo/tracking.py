"""Records a search in MLflow. An observer: whatever goes wrong here is said once and never stops a search.

Only the driver process writes, so that a fresh SQLite file is migrated by one process before any other comes near it.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evo.background import Background, first_line
from evo.candidates import Evaluation
from evo.figures import front_html, front_parquet, front_png
from evo.front import RELATIVE_ABOVE, FrontPoint, plan_facts
from evo.progress import Progress, SearchInfo, completed_generation

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Gives a candidate's network as a plain module in eval mode, and an example input with the batch as first dimension.
ModelLoader = Callable[[str], tuple[Any, np.ndarray]]
Front = tuple[FrontPoint, ...]

DEFAULT_URI, EXPERIMENT = "sqlite:///mlflow.db", "evo"
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # Standard output belongs to the command, which may be printing JSON.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"  # the latter is shown as the run's description
NOTE_OF_SEARCH = (
    "`front.html` is the interactive front, `explanation.html` says layer by layer why it looks as it does (both under "
    "Artifacts). The child runs are the members of the front: select them and compare; parallel coordinates over the "
    "parameters (what the plans do) and the metrics ending in `_x` (costs relative to the uncompressed network) make sense."
)
NOTE_OF_MEMBER = "Load the network with `mlflow.pytorch.load_model`; `plan.json` says what was done to every layer."
LONGEST_PARAM, PARAMS_AT_ONCE, METRICS_AT_ONCE, MOST_CHILDREN = 6000, 100, 1000, 50_000  # limits of MLflow
FRONT_EVERY = 300.0  # seconds

logger = logging.getLogger(__name__)


class NoTracker:
    run_id = ""

    def on_start(self, info: SearchInfo) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_round(self, progress: Progress) -> None: ...
    def on_end(self, progress: Progress, status: str) -> None: ...


class MlflowTracker:
    """One run per search, with metrics per generation and the front; one child run per member of the final front.

    `run_id` is the run to continue, or empty; after `on_start` it is the run that is written (empty while MLflow does
    not answer), so store it with the search. Calls return at once, except that `on_start` waits at most
    `start_patience` seconds for the run, and `on_end` until nothing was written for `end_patience` seconds.
    """

    def __init__(
        self,
        uri: str = DEFAULT_URI,
        experiment: str = EXPERIMENT,
        run_id: str = "",
        load_model: ModelLoader | None = None,
        explain: Callable[[], str] | None = None,
        start_patience: float = 60.0,
        end_patience: float = 300.0,
    ) -> None:
        self.run_id = run_id
        self._uri, self._experiment, self._load_model, self._explain = uri, experiment, load_model, explain
        self._start_patience, self._end_patience = start_patience, end_patience
        self._background = Background(self._warn)
        self._info = SearchInfo("", "")
        self._latest: Progress | None = None
        self._metrics: list[tuple[str, float, int, int]] = []
        self._front_logged = time.monotonic()
        self._models_missing: dict[str, str] = {}
        self._warned = False

    def on_start(self, info: SearchInfo) -> None:
        self._info = info
        self._background.submit(self._open)
        if not self._background.wait(self._start_patience):
            self._warn("it did not answer in time")

    def on_evaluation(self, evaluation: Evaluation) -> None: ...

    def on_round(self, progress: Progress) -> None:
        ended = completed_generation(self._latest, progress)
        self._latest = progress
        if ended is not None:
            self._record(ended)
            self._record_front(ended, FRONT_EVERY)

    def on_end(self, progress: Progress, status: str) -> None:
        self.on_round(progress)
        self._record(progress)
        self._record_front(progress, 0.0)
        if status == "finished":
            self._background.submit(self._write_explanation)
            self._record_members(progress.useful)
        self._background.submit(lambda: self._client().set_terminated(self.run_id, STATUS[status]))
        self._background.retry(tolerate=2)
        if not self._background.wait(self._end_patience):
            self._warn("not everything could be written")
        missing = self._models_missing
        for name, reason in list(missing.items())[:1]:
            logger.warning("MLflow has no model of %d front members, first %s: %s", len(missing), name, reason)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("The search goes on without MLflow at %s and tries again at the end: %s", self._uri, reason)

    def _record(self, progress: Progress) -> None:
        now = int(time.time() * 1000)
        self._metrics += [(name, value, now, progress.generation) for name, value in progress.metrics().items()]
        self._background.submit(self._write_metrics)

    def _record_front(self, progress: Progress, every: float) -> None:
        if progress.front and time.monotonic() - self._front_logged >= every:
            self._front_logged = time.monotonic()
            write = partial(_write_front, front=progress.front, info=self._info)
            self._background.submit(lambda: write(self._client(), self.run_id))

    def _record_members(self, front: Front) -> None:
        self._background.submit(lambda: _delete_departed(self._client(), self.run_id, front))
        for point in front:
            self._background.submit(partial(self._write_member, point))

    # What follows runs on the background thread, may raise, and runs again after it raised.

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(self._uri)

    def _open(self) -> None:
        _settle_environment()
        client = self._client()
        experiment_id = _experiment_id(client, self._experiment, self._uri)
        self.run_id = _open_run(client, self._info, self.run_id, experiment_id)

    def _write_metrics(self) -> None:
        from mlflow.entities import Metric

        # Everything that waits goes out in one batch, so that a slow server cannot fall behind.
        waiting = self._metrics[:METRICS_AT_ONCE]
        if waiting:
            self._client().log_batch(self.run_id, metrics=[Metric(*entry) for entry in waiting])
            del self._metrics[: len(waiting)]

    def _write_explanation(self) -> None:
        if self._explain is not None:
            self._client().log_text(self.run_id, self._explain(), "explanation.html")

    def _write_member(self, point: FrontPoint) -> None:
        reason = _write_member(self._client(), self.run_id, point, self._info.baseline, self._load_model)
        if reason:
            self._models_missing[point.candidate_id] = reason


def _settle_environment() -> None:
    """Short HTTP time-outs, no telemetry and no chatter, unless the user has set these variables otherwise."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (it configures its logger when imported)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Its every retry would be a line; the failure itself is reported here.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=_artifacts_beside(uri)))


def _artifacts_beside(uri: str) -> str | None:
    """For a SQLite file the folder mlruns beside it; a server decides for itself."""
    path = uri.removeprefix("sqlite:///")
    return (Path(path).resolve().parent / "mlruns").as_uri() if path != uri else None


def _open_run(client: MlflowClient, info: SearchInfo, run_id: str, experiment_id: str) -> str:
    if not run_id or not _run_exists(client, run_id):
        run_id = client.create_run(
            experiment_id, run_name=info.name, tags={"run_dir": info.run_dir, NOTE: NOTE_OF_SEARCH}
        ).info.run_id
    client.update_run(run_id, status="RUNNING")
    _write_params(client, run_id, info.params)
    return run_id


def _run_exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _write_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """A parameter of a run never changes in MLflow: what a resume has changed (a budget) becomes a tag."""
    from mlflow.entities import Param, RunTag

    known = client.get_run(run_id).data.params
    wanted = {_key(name): value[:LONGEST_PARAM] for name, value in params.items()}
    new = [Param(name, value) for name, value in wanted.items() if name not in known]
    for start in range(0, len(new), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=new[start : start + PARAMS_AT_ONCE])
    changed = [RunTag(f"resumed.{name}", value) for name, value in wanted.items() if known.get(name, value) != value]
    client.log_batch(run_id, tags=changed)


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)


def _write_front(client: MlflowClient, run_id: str, front: Front, info: SearchInfo) -> None:
    with tempfile.TemporaryDirectory() as folder:
        front_parquet(front, f"{folder}/front.parquet")
        front_png(front, info.baseline, f"{folder}/front.png", info.name, info.marks)
        text = front_html(front, info.baseline, info.name, info.marks)
        Path(folder, "front.html").write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, folder)


def _children(client: MlflowClient, run_id: str, condition: str = "") -> list[Run]:
    experiment_id = client.get_run(run_id).info.experiment_id
    wanted = f"tags.`{PARENT}` = '{run_id}'{condition}"
    return list(client.search_runs([experiment_id], wanted, max_results=MOST_CHILDREN))


def _delete_departed(client: MlflowClient, run_id: str, front: Front) -> None:
    """Removes child runs of an earlier end of this search whose candidates are no longer on the front."""
    members = {point.candidate_id for point in front}
    for run in _children(client, run_id):
        if run.data.tags.get("candidate_id") not in members:
            client.delete_run(run.info.run_id)


def _write_member(
    client: MlflowClient,
    run_id: str,
    point: FrontPoint,
    baseline: Mapping[str, float],
    load_model: ModelLoader | None,
) -> str:
    """Writes the child run of a front member; gives the reason why its model is missing, if it is."""
    from mlflow.entities import Metric, Param, RunTag

    child = _child_run(client, run_id, point.candidate_id)
    if child.info.status == "FINISHED" and child.data.tags.get("step") == point.step:
        return ""
    now, child_id = int(time.time() * 1000), child.info.run_id
    client.log_batch(
        child_id,
        metrics=[Metric(name, value, now, 0) for name, value in member_metrics(point, baseline).items()],
        params=[Param(name, str(value)) for name, value in plan_facts(point.plan).items()],
        tags=[
            RunTag("step", point.step),
            RunTag("plan", point.summary),
            RunTag("generation", str(point.generation)),
            RunTag(NOTE, f"{point.summary}. {NOTE_OF_MEMBER}"),
        ],
    )
    client.log_text(child_id, point.plan.to_json(), "plan.json")
    missing = _write_model(client, child_id, point.candidate_id, load_model) if load_model else ""
    client.set_terminated(child_id, "FINISHED")
    return missing


def member_metrics(point: FrontPoint, baseline: Mapping[str, float]) -> dict[str, float]:
    """Finite measures by name, and costs relative to the uncompressed network as NAME_x, for charts over runs."""
    measures = {name: float(value) for name, value in point.measures.items() if math.isfinite(value)}
    relative = {
        f"{name}_x": value / baseline[name]
        for name, value in measures.items()
        if abs(baseline.get(name, 0.0)) > RELATIVE_ABOVE
    }
    return measures | relative


def _child_run(client: MlflowClient, run_id: str, candidate_id: str) -> Run:
    found = _children(client, run_id, f" and tags.candidate_id = '{candidate_id}'")
    if found:
        return found[0]
    experiment_id = client.get_run(run_id).info.experiment_id
    return client.create_run(experiment_id, run_name=candidate_id, tags={PARENT: run_id, "candidate_id": candidate_id})


def _write_model(client: MlflowClient, child_id: str, candidate_id: str, load_model: ModelLoader) -> str:
    # Saved here and then uploaded, so that a network that cannot be exported is told from a server that is down.
    import mlflow.pytorch

    with tempfile.TemporaryDirectory() as folder:
        try:
            module, example = load_model(candidate_id)
            # From a single sample the export would conclude that the batch size is always one.
            batch = example if len(example) > 1 else np.repeat(example, 2, axis=0)
            module.to("cpu")
            mlflow.pytorch.save_model(module, f"{folder}/model", input_example=batch, pip_requirements=_requirements())
        except Exception as error:
            return first_line(error)
        client.log_artifacts(child_id, f"{folder}/model", "model")
    return ""


def _requirements() -> list[str]:
    # Named here because MLflow would take 15 s to find out; a local version such as +cu132 is in no registry.
    return [f"torch=={version('torch').split('+')[0]}"]
