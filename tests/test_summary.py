"""What people are shown: the useful part of a front, and a generation that never falls back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from toy import PROBLEM, ToyEvaluator, ToySpace, begin

from cluster.local import LocalBackend
from evo.candidates import STEP1, STEP2, Batch, Candidate, Evaluation, Status
from evo.config.schema import Config
from evo.front import spread
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import Standing
from evo.result import Result, load
from evo.storage.run_directory import RunDirectory
from evo.studies import tracked
from evo.studies.of_classifier import Classifier
from evo.views.summary import shown_front, trust

REFERENCE = (100.0, 60.0)


def result(points: int, reference: tuple[float, ...] = REFERENCE) -> Result:
    """A front of as many points: error i, size points - i."""
    config = Config.model_validate({"model": {"factory": "digits_cnn"}, "data": {"factory": "digits"}})
    return Result(
        "run",
        config,
        replace(PROBLEM, reference=reference),
        {},
        tuple(map(_evaluation, range(points), [points] * points)),
    )


def _evaluation(number: int, points: int) -> Evaluation:
    genome = tuple(int(digit) for digit in f"3{number // 64}{number // 16 % 4}{number // 4 % 4}{number % 4}0")
    candidate = Candidate(f"0000-{number:04d}", 0, genome, STEP2)
    return Evaluation(candidate, Status.COMPLETED, {"error": float(number), "size": float(points - number)})


def text(of: Result) -> str:
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown_front(of))
    return console.export_text()


def test_a_short_front_is_shown_whole() -> None:
    shown = text(result(20))
    assert shown.count("0000-") == 20 and "--json" not in shown


def test_a_long_front_is_shown_in_part_and_the_line_says_so() -> None:
    long = result(90)
    shown = text(long)
    assert len(long.front) == 90 and len(long.useful) == 60  # sizes 90 .. 61 are beyond the reference
    assert shown.count("0000-") <= 20
    assert "0000-0030" in shown and "0000-0089" in shown and "0000-0029" not in shown
    assert "of 90 points are shown, 30 of them beyond the hypervolume's reference point; --json" in shown


def test_without_a_reference_or_useful_points_the_front_itself_is_shown() -> None:
    assert len(result(90, ()).useful) == 90
    hopeless = result(5, (-1.0, -1.0))
    assert not hopeless.useful and text(hopeless).count("0000-") == 5


@pytest.mark.parametrize("most", [3, 7, 20])
def test_spread_keeps_both_ends_and_the_knee(most: int) -> None:
    of = result(90)
    kept = [p.candidate_id for p in spread(of.front, most)]
    assert len(kept) <= most and {"0000-0000", "0000-0089", of.pick("knee").point.candidate_id} <= set(kept)


def measured(errors: Sequence[float]) -> Result:
    """As many candidates, predicted in ascending order at step 1, with these errors at step 2."""
    of, rows = result(len(errors)), list[Evaluation]()
    for evaluation, error in zip(of.evaluations, errors, strict=True):
        predicted = {"predicted_loss_increase": evaluation.measures["error"]}
        rows.append(replace(evaluation, candidate=replace(evaluation.candidate, step=STEP1), measures=predicted))
        rows.append(replace(evaluation, measures={**evaluation.measures, "top1_error": error}))
    return replace(of, evaluations=tuple(rows))


WARNING = ". Too low to trust step 1: raise evaluation.step1.images, or promote more candidates"


@pytest.mark.parametrize(
    ("errors", "tau", "warned"),
    [
        ([0.1, 0.2, 0.3, 0.4], "1.00 (4 candidates)", False),
        ([0.2, 0.1, 0.3, 0.4], "0.67 (4 candidates)", False),  # five pairs of six in order
        ([i / 40 for i in range(40)], "1.00 (95 % interval 1.00 to 1.00, 40 candidates)", False),
        ([(7 * i % 40) / 40 for i in range(40)], "0.15 (95 % interval -0.07 to 0.35, 40 candidates)", True),
        ([0.4, 0.3, 0.2, 0.1], "-1.00 (4 candidates)", False),  # too few to say so
        ([(3 * i % 7) / 7 for i in range(6)], "0.07 (95 % interval -0.69 to 0.75, 6 candidates)", False),
    ],
)
def test_a_warning_stands_where_the_steps_certainly_disagree(errors: list[float], tau: str, warned: bool) -> None:
    told = trust(measured(errors))
    assert told.startswith(f"Kendall's tau step 1 / step 2: {tau}") and told.endswith(
        WARNING if warned else "candidates)"
    )


def test_without_measurements_nothing_is_claimed() -> None:
    assert trust(measured([])) == "no agreement between steps can be told from 0 candidates"


def test_the_tracker_keeps_the_words_that_people_are_shown(small_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(tracked, "resolve", lambda *_: lambda **settings: given.update(settings))
    run = RunDirectory.open(str(small_search))
    config = load(str(small_search)).config
    section = config.tracking.model_copy(update={"tracker": "mlflow"})
    study = SimpleNamespace(config=config.model_copy(update={"tracking": section}))
    tracked.tracker_of(run, Classifier(study), print)
    told = given["texts"]()["trust.txt"]
    assert told == trust(load(str(small_search))) and told.startswith("Kendall's tau step 1 / step 2: ")


@dataclass(frozen=True)
class LatePromotion:
    """Asks for one candidate a round, of these generations."""

    generations: tuple[int, ...] = (0, 1, 2, 1, 0, 3)

    def init(self, seed: int) -> int:
        return 0

    def ask(self, state: int) -> tuple[Batch, int]:
        if state == len(self.generations):
            return Batch(()), state
        genome = ToySpace().repair((1, 2, 3, state % 4, state // 4, 1))
        return Batch((Candidate(f"c-{state}", self.generations[state], genome, STEP2),)), state

    def tell(self, state: int, evaluations: object) -> int:
        return state + 1


class Generations:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def on_start(self, standing: Standing) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_round(self, standing: Standing) -> None:
        self.heard.append(standing.generation)

    def on_end(self, standing: Standing, status: str) -> None: ...


def test_the_generation_never_falls_back(tmp_path: Path) -> None:
    heard = Generations()
    backend = LocalBackend(ToyEvaluator)
    run_search(PROBLEM, LatePromotion(), backend, {}, begin(tmp_path / "run"), 7, Budget(9), (heard,))
    assert heard.heard == [0, 1, 2, 2, 2, 3]
