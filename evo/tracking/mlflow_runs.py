"""What a search writes to MLflow, call by call: its run, the front, and a child run with a model per member of the front.

Everything here may raise what MLflow raises, and may be called again after it did.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evo.front import RELATIVE_ABOVE, FrontPoint, format_measure, plan_facts
from evo.loop.background import first_line
from evo.views.figures import front_html, front_parquet, front_png
from evo.views.progress import SearchInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient as MlflowClient
    from mlflow.entities import Run as Run

# Gives a candidate's network as a plain module in eval mode, and an example input with the batch as first dimension.
ModelLoader = Callable[[str], tuple[Any, np.ndarray]]
MetricEntry = tuple[str, float, int, int]  # name, value, milliseconds since the epoch, step

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # Standard output belongs to the command, which may be printing JSON.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
KIND_OF_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}  # pages of runs and models, not of prompts
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"  # the latter is shown as the run's description
NOTE_OF_SEARCH = (
    "`front.html` is the interactive front, `explanation.html` says layer by layer why it looks as it does (both under "
    "Artifacts). The child runs are the members of the front: select them and compare; parallel coordinates over the "
    "parameters (what the plans do) and the metrics ending in `_x` (costs relative to the uncompressed network) make sense."
)
NOTE_OF_MEMBER = "`plan.json` says what was done to every layer."
NOTE_OF_MODEL = '`mlflow.pytorch.load_model("models:/{model_id}")` loads the network.'
LONGEST_PARAM, PARAMS_AT_ONCE, MOST_CHILDREN = 6000, 100, 50_000  # limits of MLflow


def client_of(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def settle_environment() -> None:
    """Short HTTP time-outs, no telemetry and no chatter, unless the user has set these variables otherwise."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", message="No complete tensor found in the group")  # torch's, at every model saved
    import mlflow  # noqa: F401  (it configures its logger when imported)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Its every retry would be a line; the failure itself is reported by the caller.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def experiment_id_of(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, _artifacts_beside(uri), tags=KIND_OF_EXPERIMENT))


def _artifacts_beside(uri: str) -> str | None:
    """For a SQLite file the folder mlruns beside it; a server decides for itself."""
    path = uri.removeprefix("sqlite:///")
    return (Path(path).resolve().parent / "mlruns").as_uri() if path != uri else None


def open_run(client: MlflowClient, info: SearchInfo, run_id: str, experiment_id: str) -> str:
    """The run to write to: the given one where it exists, else a new one."""
    if not run_id or not _run_exists(client, run_id):
        run_id = client.create_run(
            experiment_id, run_name=info.name, tags={"run_dir": info.run_dir, NOTE: NOTE_OF_SEARCH}
        ).info.run_id
    client.update_run(run_id, status="RUNNING")
    baseline = {f"baseline.{name}": f"{value:.6g}" for name, value in info.baseline.items()}
    _write_params(client, run_id, {**info.params, **baseline})
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
    if changed:
        client.log_batch(run_id, tags=changed)


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)


def write_metrics(
    client: MlflowClient, run_id: str, entries: Iterable[MetricEntry], model_id: str | None = None
) -> None:
    """In one call; what is not finite is left out. With `model_id` they are the model's, too."""
    from mlflow.entities import Metric

    known = [Metric(*entry, model_id=model_id) for entry in entries if math.isfinite(entry[1])]
    if known:
        client.log_batch(run_id, metrics=known)


def write_front(client: MlflowClient, run_id: str, front: tuple[FrontPoint, ...], info: SearchInfo) -> None:
    with tempfile.TemporaryDirectory() as folder:
        front_parquet(front, f"{folder}/front.parquet")
        front_png(front, info.baseline, f"{folder}/front.png", info.name, info.marks)
        text = front_html(front, info.baseline, info.name, info.marks)
        Path(folder, "front.html").write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, folder)


def remaining_members(
    client: MlflowClient, experiment_id: str, run_id: str, front: tuple[FrontPoint, ...]
) -> dict[str, Run]:
    """The child runs by candidate; those of an earlier end of this search that are no longer on the front are deleted."""
    members = {point.candidate_id for point in front}
    found = client.search_runs([experiment_id], f"tags.`{PARENT}` = '{run_id}'", max_results=MOST_CHILDREN)
    for run in found:
        if run.data.tags.get("candidate_id") not in members:
            _delete_models(client, run)
            client.delete_run(run.info.run_id)
    return {run.data.tags["candidate_id"]: run for run in found if run.data.tags.get("candidate_id") in members}


def _delete_models(client: MlflowClient, run: Run) -> None:
    for model in client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"):
        client.delete_logged_model(model.model_id)


def write_member(
    client: MlflowClient,
    parent: tuple[str, str],
    known: dict[str, Run],
    point: FrontPoint,
    baseline: Mapping[str, float],
    load_model: ModelLoader | None,
) -> str:
    """Writes the child run of a front member; gives the reason why its model is missing, if it is.

    parent: ids of the experiment and of the search's run. known: child runs by candidate; one that is made is added.
    """
    from mlflow.entities import Param, RunTag

    child = known.get(point.candidate_id)
    if child is None:
        tags = {PARENT: parent[1], "candidate_id": point.candidate_id}
        name = member_name(point, baseline)
        child = known[point.candidate_id] = client.create_run(parent[0], run_name=name, tags=tags)
    elif child.info.status == "FINISHED" and child.data.tags.get("step") == point.step:
        return ""
    child_id = child.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        # Saved here before it is uploaded, so that a network that cannot be exported is told from a server that is down.
        missing = _save_model(point.candidate_id, load_model, f"{folder}/model") if load_model else ""
        kept = bool(load_model) and not missing
        model_id = _upload_model(client, child, point, f"{folder}/model") if kept else None
    note = NOTE_OF_MODEL.format(model_id=model_id) if model_id else ""
    client.log_batch(
        child_id,
        params=[Param(name, value) for name, value in _facts(point).items()],
        tags=[
            RunTag("step", point.step),
            RunTag("plan", point.summary),
            RunTag("generation", str(point.generation)),
            RunTag(NOTE, f"{point.summary}. {NOTE_OF_MEMBER} {note}"),
        ],
    )
    now = int(time.time() * 1000)
    measures = member_metrics(point, baseline)
    write_metrics(client, child_id, [(name, value, now, 0) for name, value in measures.items()], model_id)
    client.log_text(child_id, point.plan.to_json(), "plan.json")
    client.set_terminated(child_id, "FINISHED")
    return missing


def _facts(point: FrontPoint) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in plan_facts(point.plan).items()}


def member_name(point: FrontPoint, baseline: Mapping[str, float]) -> str:
    """A name that says in lists and legends what the network is worth, such as "0003-0007 top1_error 9.3 %, macs 0.38x"."""
    values = [f"{name} {_short(name, point.value(name), baseline.get(name, 0.0))}" for name in point.objectives]
    return f"{point.candidate_id} {', '.join(values)}"


def _short(name: str, value: float, baseline: float) -> str:
    return f"{value / baseline:.2f}x" if baseline > RELATIVE_ABOVE else format_measure(name, value)


def member_metrics(point: FrontPoint, baseline: Mapping[str, float]) -> dict[str, float]:
    """Finite measures by name, and costs relative to the uncompressed network as NAME_x, for charts over runs."""
    measures = {name: float(value) for name, value in point.measures.items() if math.isfinite(value)}
    relative = {
        f"{name}_x": value / baseline[name]
        for name, value in measures.items()
        if abs(baseline.get(name, 0.0)) > RELATIVE_ABOVE
    }
    return measures | relative


def _save_model(candidate_id: str, load_model: ModelLoader, path: str) -> str:
    """Saves the network as an MLflow model; gives the reason where it cannot be."""
    import mlflow.pytorch

    try:
        module, example = load_model(candidate_id)
        # From a single sample the export would conclude that the batch size is always one.
        batch = example if len(example) > 1 else np.repeat(example, 2, axis=0)
        mlflow.pytorch.save_model(module.to("cpu"), path, input_example=batch, pip_requirements=_requirements())
    except Exception as error:
        return first_line(error)
    return ""


def _upload_model(client: MlflowClient, child: Run, point: FrontPoint, path: str) -> str:
    """An entry of MLflow's model pages, named like the candidate; gives its id."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    _delete_models(client, child)  # of a lower step, or of a call that was cut off
    run_id = child.info.run_id
    made = client.create_logged_model(child.info.experiment_id, point.candidate_id, run_id, params=_facts(point))
    description = Model.load(path)
    description.model_id, description.run_id, description.artifact_path = made.model_id, run_id, made.artifact_location
    description.save(f"{path}/MLmodel")
    client.log_model_artifacts(made.model_id, path)
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def _requirements() -> list[str]:
    # Named here because MLflow would take 15 s to find out; a local version such as +cu132 is in no registry.
    return [f"torch=={version('torch').split('+')[0]}"]
