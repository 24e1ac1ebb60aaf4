"""Records a search in MLflow. An observer: whatever goes wrong here is said once and never stops a search.

Only the driver process writes, so that a fresh SQLite file is migrated by one process before any other comes near it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evo.addresses import without_secrets
from evo.candidates import Evaluation
from evo.front import FrontPoint
from evo.loop.background import Background
from evo.tracking.mlflow_runs import (
    MetricEntry,
    ModelLoader,
    client_of,
    experiment_id_of,
    open_run,
    remaining_members,
    settle_environment,
    write_front,
    write_member,
    write_metrics,
)
from evo.views.progress import Progress, SearchInfo, completed_generation

if TYPE_CHECKING:
    from evo.tracking.mlflow_runs import MlflowClient, Run

Finals = Mapping[str, Mapping[str, float]]  # measures by candidate

DEFAULT_URI, EXPERIMENT = "sqlite:///mlflow.db", "evo"
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
METRICS_AT_ONCE = 1000  # a limit of MLflow
PICTURE = "translations.png"
FRONT_EVERY = 300.0  # seconds

logger = logging.getLogger(__name__)


class NoTracker:
    run_id = ""

    def on_start(self, info: SearchInfo) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_round(self, progress: Progress) -> None: ...
    def on_end(self, progress: Progress, status: str) -> None: ...
    def on_finals(self, finals: Finals) -> None: ...


class MlflowTracker:
    """One run per search, with metrics per generation and the front; one child run per member of the final front.

    `run_id` is the run to continue, or empty; after `on_start` it is the run that is written (empty while MLflow does
    not answer), so store it with the search. Calls return at once, except that `on_start` waits at most
    `start_patience` seconds for the run, and `on_end` until nothing was written for `end_patience` seconds. `texts` gives
    the files that a finished search leaves, `note` takes sentences for people.
    """

    def __init__(
        self,
        uri: str = DEFAULT_URI,
        experiment: str = EXPERIMENT,
        run_id: str = "",
        load_model: ModelLoader | None = None,
        texts: Callable[[], Mapping[str, str]] = dict,
        draw: Callable[[Path], None] | None = None,
        note: Callable[[str], None] = lambda _: None,
        start_patience: float = 60.0,
        end_patience: float = 300.0,
    ) -> None:
        self.run_id = run_id
        self._uri, self._experiment, self._load_model, self._texts = uri, experiment, load_model, texts
        self._note, self._draw = note, draw
        self._start_patience, self._end_patience = start_patience, end_patience
        self._background = Background(self._warn)
        self._info = SearchInfo("", "")
        self._latest: Progress | None = None
        self._metrics: list[MetricEntry] = []
        self._front_logged = time.monotonic()
        self._experiment_id = ""
        self._members: dict[str, Run] = {}
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
            self._background.submit(self._write_texts)
            self._background.submit(self._write_picture)
            self._record_members(progress.useful)
            self._note(f"writing {len(progress.useful)} networks of the front to MLflow, a few seconds each")
        self._background.submit(lambda: self._client().set_terminated(self.run_id, STATUS[status]))
        self._background.retry(tolerate=2)
        if not self._background.wait(self._end_patience):
            self._warn("not everything could be written")
        missing = self._models_missing
        for name, reason in list(missing.items())[:1]:
            told = f"MLflow has no model of {len(missing)} front members, first {name}: {reason}"
            logger.warning("%s", without_secrets(told, self._uri))

    def on_finals(self, finals: Finals) -> None:
        """After `on_end`: what the last step measured of the picks, by candidate."""
        for candidate_id, measures in finals.items():
            self._background.submit(partial(self._write_final, candidate_id, measures))
        if finals:
            self._background.submit(self._write_picture)  # again, with what was tuned
        self._background.wait(self._end_patience)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            told = f"The search goes on without MLflow at {self._uri} and tries again at the end: {reason}"
            logger.warning("%s", without_secrets(told, self._uri))

    def _record(self, progress: Progress) -> None:
        now = int(time.time() * 1000)
        self._metrics += [(name, value, now, progress.generation) for name, value in progress.metrics().items()]
        self._background.submit(self._write_metrics)

    def _record_front(self, progress: Progress, every: float) -> None:
        if progress.front and time.monotonic() - self._front_logged >= every:
            self._front_logged = time.monotonic()
            write = partial(write_front, front=progress.front, info=self._info)
            self._background.submit(lambda: write(self._client(), self.run_id))

    def _record_members(self, front: tuple[FrontPoint, ...]) -> None:
        self._background.submit(lambda: self._find_members(front))
        for point in front:
            self._background.submit(partial(self._write_member, point))

    # What follows runs on the background thread, may raise, and runs again after it raised.

    def _client(self) -> MlflowClient:
        return client_of(self._uri)

    def _open(self) -> None:
        settle_environment()
        client = self._client()
        self._experiment_id = experiment_id_of(client, self._experiment, self._uri)
        self.run_id = open_run(client, self._info, self.run_id, self._experiment_id)

    def _write_metrics(self) -> None:
        # Everything that waits goes out in one batch, so that a slow server cannot fall behind.
        waiting = self._metrics[:METRICS_AT_ONCE]
        write_metrics(self._client(), self.run_id, waiting)
        del self._metrics[: len(waiting)]

    def _write_texts(self) -> None:
        for name, text in self._texts().items():
            self._client().log_text(self.run_id, text, name)

    def _write_picture(self) -> None:
        if self._draw is not None:
            with tempfile.TemporaryDirectory() as folder:
                self._draw(Path(folder, PICTURE))
                self._client().log_artifact(self.run_id, f"{folder}/{PICTURE}")

    def _find_members(self, front: tuple[FrontPoint, ...]) -> None:
        self._members = remaining_members(self._client(), self._experiment_id, self.run_id, front)

    def _write_final(self, candidate_id: str, measures: Mapping[str, float]) -> None:
        if candidate_id in self._members:  # a pick beyond the reference point has no run of its own
            child, now = self._members[candidate_id].info.run_id, int(time.time() * 1000)
            entries = [(f"final.{name}", value, now, 0) for name, value in measures.items()]
            write_metrics(self._client(), child, entries)

    def _write_member(self, point: FrontPoint) -> None:
        parent = (self._experiment_id, self.run_id)
        reason = write_member(self._client(), parent, self._members, point, self._info.baseline, self._load_model)
        if reason:
            self._models_missing[point.candidate_id] = reason
