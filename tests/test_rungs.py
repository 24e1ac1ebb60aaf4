"""The ladder with steps between step 1 and step 2: who goes on, who is left behind, and what the report says of each step."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from analytic import TWO, cost, error, fail, measure, measure_step1, run

from evo.algorithms.halving import hopeful, lifted
from evo.algorithms.nsga import NSGA
from evo.algorithms.two_step import TwoStep
from evo.candidates import STEP2, Batch, Candidate, Evaluation, Status, rung_steps
from evo.config.checks import check
from evo.config.schema import load
from evo.storage.checkpoint import decode, encode
from evo.views.summary import trust

RUNG = "rung1"
SURROGATES = {"error": "surrogate"}
CONFIG = Path(__file__).parent.parent / "configs" / "resnet20_cifar10.yaml"


def ladder(**settings) -> TwoStep:
    return TwoStep(TWO, NSGA(TWO, population=12), 6, first=6, surrogates=SURROGATES, rungs=(RUNG,), **settings)


def evaluate(batch: Batch) -> list[Evaluation]:
    """The rung ranks like the step above it, with errors that are all larger."""
    measures = {"step1": measure_step1, RUNG: untuned, STEP2: measure}
    return [measures[c.step](c) for c in batch.candidates]


def untuned(candidate: Candidate) -> Evaluation:
    given = {"error": 0.2 + 0.7 * error(candidate.genome), "cost": cost(candidate.genome)}
    return Evaluation(candidate, Status.COMPLETED, given)


def test_only_the_share_that_is_kept_goes_on_and_nobody_starts_twice() -> None:
    history = run(ladder(keep=0.5), 12, evaluate=evaluate)
    steps = [[c.step for c in batch.candidates] for batch, _, _ in history]
    assert steps[:3] == [["step1"] * 12, [RUNG] * 6, [STEP2] * 3] and steps[3:6] == steps[:3]
    begun = [c.genome for batch, _, _ in history for c in batch.candidates if c.step == RUNG]
    assert len(set(begun)) == len(begun) == 24
    for at in range(1, 12, 3):
        ids = {c.id for c in history[at][0].candidates}
        assert {c.id for c in history[at + 1][0].candidates} < ids
    state = history[-1][2]
    assert len(state.measured) == 12 and len(state.raced) == 24 and not state.racing and state.rung == 0
    assert all({"surrogate", "error", "cost"} <= e.measures.keys() for e in state.measured)


def test_who_goes_on_may_do_so_from_its_own_weights() -> None:
    for goes_on in (True, False):
        for batch, _, _ in run(ladder(continue_rungs=goes_on), 6, evaluate=evaluate):
            climbed = goes_on and batch.candidates[0].step == STEP2
            assert [c.predecessor for c in batch.candidates] == [f"{c.id}@{RUNG}" * climbed for c in batch.candidates]


def test_a_ladder_goes_on_from_storage_at_every_rung() -> None:
    whole = run(ladder(), 7, evaluate=evaluate)
    for done in range(1, 7):
        algorithm = ladder()
        state = decode(type(whole[0][2]), encode(whole[done - 1][2]), like=algorithm.init(0))
        rest = run(algorithm, 7 - done, evaluate=evaluate, state=state)
        assert [batch for batch, _, _ in rest] == [batch for batch, _, _ in whole[done:]]


def test_a_rung_that_everyone_fails_ends_the_generation() -> None:
    def broken(batch: Batch) -> list[Evaluation]:
        return [fail(c) if c.step == RUNG else e for c, e in zip(batch.candidates, evaluate(batch), strict=True)]

    history = run(ladder(), 6, evaluate=broken)
    assert [batch.candidates[0].step for batch, _, _ in history] == ["step1", RUNG] * 3
    failed = {e.candidate.genome for e in history[-1][2].raced}
    assert not failed & {e.candidate.genome for e in history[-1][2].inner.population}


def raced(errors, costs, step=RUNG) -> list[Evaluation]:
    return [
        Evaluation(Candidate(f"0-{i}", 0, (i,), step), Status.COMPLETED, {"error": e, "cost": c})
        for i, (e, c) in enumerate(zip(errors, costs, strict=True))
    ]


def test_who_is_dominated_is_left_behind_first() -> None:
    told = raced([0.5, 0.3, 0.9, 0.6], [0.5, 0.9, 0.95, 0.55])
    told.append(fail(dataclasses.replace(told[0].candidate, id="0-4")))
    assert {e.candidate.id for e in hopeful(TWO, ("error",), told, (), (), STEP2, 0.4)} == {"0-0", "0-1"}
    assert len(hopeful(TWO, ("error",), told, (), (), STEP2, 1.0)) == 4
    assert len(hopeful(TWO, ("error",), told, (), (), STEP2, 0.0)) == 1, "someone goes on"


def test_a_rung_is_compared_with_the_front_by_what_tuning_on_was_worth() -> None:
    """At the rung all errors are 0.2 higher: without the correction the one below the front would seem hopeless."""
    before = raced([0.3, 0.5, 0.7, 0.9], [0.9, 0.7, 0.5, 0.3])
    above = raced([0.1, 0.3, 0.5, 0.7], [0.9, 0.7, 0.5, 0.3], STEP2)
    (one,) = lifted(raced([0.4], [0.5]), before, above, "error")
    assert one.measures["error"] == pytest.approx(0.2)
    new = [dataclasses.replace(e, candidate=dataclasses.replace(e.candidate, id=f"1-{i}")) for i, e in enumerate(
        raced([0.55, 0.45], [0.5, 0.9]))]  # fmt: skip
    (left,) = hopeful(TWO, ("error",), new, before, above, STEP2, 0.5)
    assert left.candidate.id == "1-0"


def test_rungs_come_from_the_configuration() -> None:
    rung = "evaluation.rungs=[{validation: 256, tune: {epochs: 0}}]"
    config = load(CONFIG, [rung])
    assert rung_steps(len(config.evaluation.rungs)) == (RUNG,)
    with pytest.raises(ValueError, match=r"evaluation.rungs needs an algorithm.*nsga2.*two_step"):
        check(load(CONFIG, [rung, "algorithm={name: nsga2}"]), ("top1_error", "macs", "size_bytes"))


@dataclasses.dataclass(frozen=True)
class Judged:
    """What `trust` reads of a result: ladder and agreements."""

    steps: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]

    def agreement(self, lower: str, upper: str):
        from evo.archive import step_agreement

        return step_agreement(self.evaluations, lower, upper, "error", "error")

    def latency_agreement(self):
        from evo.archive import step_agreement

        return step_agreement((), "step2", "step2", "a", "b")


def test_every_step_is_judged_by_the_next_one() -> None:
    rng = np.random.default_rng(0)
    truth, noise, costs = rng.random(40), np.random.default_rng(3).random(40), np.zeros(40)
    rows = (*raced(truth, costs, "step1"), *raced(truth**2, costs), *raced(noise, costs, STEP2))
    text = trust(Judged(("step1", RUNG, STEP2, "final"), rows))
    assert "step 1 / rung 1: 1.00 (95 % interval" in text and "rung 1 / step 2: " in text and "final" not in text
    assert "Too low to trust rung 1: raise its tune.epochs" in text and "trust step 1" not in text
