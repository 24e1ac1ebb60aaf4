"""The Python interface: search, resume, load, export. The command line is a thin layer over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from evaluators.data import ImageData
from evo.candidates import FINAL, STEP1, STEP2
from evo.config.checks import GIVEN
from evo.config.resuming import require_same_search, same_last_step
from evo.config.schema import Config, parse, validate
from evo.errors import examined_by_doctor
from evo.loop.budget import Budget
from evo.loop.final import forget_finals, keep_baseline, measure_finals
from evo.loop.generations import run_search
from evo.loop.keeping import KeepFront, KeepTracking
from evo.loop.observers import SearchObserver
from evo.loop.steady import Steady, run_steady
from evo.result import Choice, Result, load
from evo.storage.folder import Folder
from evo.storage.lease import Lease
from evo.storage.manifest import RunInfo
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import LEARNED, SURROGATE, check_names
from evo.studies.exporting import export_point
from evo.studies.inputs import Given, require_given
from evo.studies.opening import AnySubject, open_subject
from evo.studies.pair_outputs import SHEET_FILE
from evo.studies.subject import AnyStudy
from evo.studies.tracked import tracker_of
from evo.studies.workers import reach, workers_at
from evo.views.display import NoDisplay, display
from evo.views.marks import absolute_marks
from evo.views.progress import Listener, SearchInfo
from evo.views.reporting import FidelityPair, View, reports
from evo.views.writing import write_outputs

__all__ = ["Choice", "Given", "Listeners", "Result", "export_point", "load", "resume", "run_config", "search"]

UNTRAINED = 0.5  # top-1 error of the uncompressed network above which people are told


@dataclass(frozen=True)
class Listeners:
    """Who hears of the search besides the tracker; `note` takes sentences for people."""

    display: Listener = field(default_factory=NoDisplay)
    note: Callable[[str], None] = lambda _: None


def search(
    model: nn.Module | Mapping[str, Any] | str,
    data: ImageData | tuple[Any, Any] | Mapping[str, Any] | str,
    objectives: Sequence[str | Mapping[str, Any]] = ("top1_error", "macs", "size_bytes"),
    run_dir: str | Path = "runs/search",
    validation: int = 2000,
    output: str | int | None = None,
    **sections: Mapping[str, Any],
) -> Result:
    """Search the Pareto front of a network's compressed versions.

    model: a trained torch.nn.Module, the name of a built-in one, or the `model` section of a configuration.
    data: `ImageData`, a pair (train, test) of data sets of (image tensor, label), a name, or the `data` section. In place of the
    image may stand several tensors, in a tuple or a dict by the names of the model's arguments.
    output: of a model handed over that returns several tensors, the key or position of its logits.
    objectives: measures to minimise. Other sections of the configuration (space, budget, execution ...) are keyword
    arguments with dictionaries; `validation` training images are held out of data handed over. Raises ValueError for
    anything that cannot work, before any long computation.
    """
    from evaluators.datasets import from_factory

    given = Given(
        model if isinstance(model, nn.Module) else None,
        from_factory(data) if isinstance(data, ImageData | tuple) else None,
    )
    values = {
        **sections,
        "model": {"factory": GIVEN, "output": output} if given.model is not None else _section("model", model),
        "data": {"factory": GIVEN, "validation": validation} if given.data is not None else _section("data", data),
        "objectives": [{"measure": o} if isinstance(o, str) else dict(o) for o in objectives],
    }
    return run_config(validate(values, "evo.search"), str(run_dir), given=given, listeners=Listeners(display()))


def _section(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str | Mapping):
        wanted = "a torch.nn.Module" if key == "model" else "a pair (train, test) of data sets"
        raise ValueError(
            f"evo.search must be given {wanted}, a name or a section of a configuration as {key}, "
            f"but got {key} of type {type(value).__name__}; change it"
        )
    return {"factory": value} if isinstance(value, str) else dict(value)


def run_config(
    config: Config,
    run_dir: str,
    address: str | None = None,
    listeners: Listeners = Listeners(),
    given: Given = Given(),  # noqa: B008 - frozen
) -> Result:
    """Start a new search in an empty run directory."""
    with _examined(given):
        check_names(config)
    RunDirectory.require_empty(run_dir)
    reach(config.execution, address)
    listeners.note(f"loading {config.model.factory} and {config.data.factory}")
    with _examined(given):
        subject = open_subject(config, None, given)
    baseline = subject.study.baseline
    _note_untrained(baseline.get("top1_error", 0.0), listeners.note)
    with Lease(Folder.at(run_dir), run_dir, listeners.note) as lease:
        run = RunDirectory.create(run_dir, config.to_yaml(), _info(subject.study, baseline), lease.require)
        return _run(run, subject, address, listeners, given)


def _note_untrained(error: float, note: Callable[[str], None]) -> None:
    if error > UNTRAINED:
        note(
            f"the uncompressed network is wrong on {error:.0%} of the held-out images, which no search makes up for; "
            "was it trained long enough (model.pretrain.epochs), are these its weights and its data?"
        )


def _examined(given: Given) -> AbstractContextManager[None]:
    """The doctor reads configurations: objects handed over in Python it does not see."""
    named = given.model is None and given.data is None
    return examined_by_doctor("CONFIG") if named else nullcontext()


def is_run(run_dir: str) -> bool:
    """Whether a search was begun there."""
    return "run.json" in Folder.at(run_dir).names()


def resume(
    run_dir: str | Path,
    overrides: Sequence[str] = (),
    address: str | None = None,
    listeners: Listeners = Listeners(),
    given: Given = Given(),  # noqa: B008 - frozen
    config: Config | None = None,
) -> Result:
    """Continue a search where it stopped; overrides may extend its budget, or change how it runs and is tracked. With
    `config` it goes on under that configuration, which must be of the same search."""
    run = RunDirectory.open(str(run_dir))
    before = parse(run.config)
    config = config or parse(run.config, overrides, f"{run_dir}/config.yaml")
    check_names(config)
    require_same_search(before, config)
    require_given(config, given, str(run_dir), "evo.resume")
    reach(config.execution, address)
    with Lease(run.folder, run.uri, listeners.note) as lease:
        run = replace(run, guard=lease.require)
        run.latest()
        listeners.note(f"loading {config.model.factory} and {config.data.factory}")
        subject = open_subject(config, run.local, given)
        run.info.require_same(_info(subject.study, run.info.baseline))
        if not same_last_step(before, config):
            forget_finals(run, listeners.note)
        run.write("config.yaml", config.to_yaml().encode())
        return _run(run, subject, address, listeners, given)


def _info(study: AnyStudy, baseline: Mapping[str, float]) -> RunInfo:
    objectives = tuple(f"{o.direction} {o.measure}" for o in study.config.objectives)
    return RunInfo(study.space.digest, objectives, study.config.seed, dict(baseline))


def _run(run: RunDirectory, opened: AnySubject, address: str | None, listeners: Listeners, given: Given) -> Result:
    """Search, then the last step for the picks, then the figures; everything interrupted here can be resumed."""
    subject = opened.kept(run)
    study, config = subject.study, subject.study.config
    backend = subject.backend(given, address)
    trainer, keepers = subject.training(given, address)
    tracker = tracker_of(run, subject, listeners.note)
    marks = absolute_marks(config.tracking.marks, run.info.baseline)
    info = SearchInfo(config.name, run.uri, config.flat(), dict(run.info.baseline), marks)
    observers = reports(_view(study), info, [listeners.display, tracker])
    keeping: tuple[SearchObserver, ...] = (
        KeepTracking(run, tracker),
        KeepFront(study.problem, run.local),
        *keepers,
    )
    budget = Budget(**config.budget.model_dump())
    try:
        algorithm, everyone, scored = subject.algorithm(), (*observers, *keeping), subject.scorers(listeners.note)
        overlap = config.supernet is not None and config.supernet.overlap
        if config.execution.asynchronous and isinstance(algorithm, Steady):
            run_steady(study.problem, algorithm, backend, run, config.seed, budget, everyone, scored)
        else:
            run_search(study.problem, algorithm, backend, scored, run, config.seed, budget, everyone, trainer, overlap)
        result = load(run.uri)
        measure_finals(run, result, backend, config.evaluation.final.picks, listeners.note)
        tracker.on_finals(load(run.uri).finals)
        if config.evaluation.final.picks and not result.final_baseline:
            keep_baseline(run, subject.measured_baseline(FINAL))
    finally:
        backend.close()
        if trainer is not None:  # it came first, and so may own the cluster
            trainer.close()
    result = load(run.uri, given)
    write_outputs(run, result)
    if subject.sheet is not None and run.local is not None and result.front:
        subject.sheet(result, run.local / SHEET_FILE)
    return result


def _view(study: AnyStudy) -> View:
    """Progress at step 2; best under budget: at most half the baseline's first cost objective."""
    names = [o.measure for o in study.problem.objectives]
    costs = [name for name in names if name not in LEARNED]
    budgets = tuple((name, 0.5 * study.baseline[name]) for name in costs[:1])
    learned = next((name for name in names if name in LEARNED), "top1_error")
    pair = FidelityPair(STEP1, SURROGATE, STEP2, learned)
    workers = workers_at(study.config.execution, STEP2)
    return View(study.problem, STEP2, pair, workers, budgets, f"half_{costs[0]}" if costs else "")
