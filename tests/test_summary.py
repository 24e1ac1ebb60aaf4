"""What people are shown: the useful part of a front, and a generation that never falls back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console
from toy import PROBLEM, ToyEvaluator, ToySpace, begin

from cluster.local import LocalBackend
from evo.candidates import STEP2, Batch, Candidate, Evaluation, Status
from evo.config.schema import Config
from evo.front import spread
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import Standing
from evo.result import Result
from evo.views.summary import shown_front

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
