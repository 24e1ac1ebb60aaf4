"""The two-step wrapper: who is promoted, what the inner algorithm learns, and how predictions are corrected."""

import dataclasses

import numpy as np
import pytest
from analytic import TWO, evaluate, fail, reached, run
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from evo.algorithms.nsga import NSGA
from evo.algorithms.two_step import TwoStep
from evo.candidates import STEP1, STEP2, Status
from evo.problem import Constraint
from evo.selection.calibration import BEST, Isotonic, isotonic
from evo.selection.promotion import promotion_order

SURROGATES = {"error": "surrogate"}


def two_step(problem=TWO, population=20, promote=5, **settings):
    return TwoStep(
        problem, NSGA(problem, population=population), promote, first=promote, surrogates=SURROGATES, **settings
    )


xy = st.lists(st.tuples(st.integers(0, 9), st.integers(-9, 9)), min_size=1, max_size=30)


@given(xy)
def test_isotonic_pools_equal_scikit_learns(pairs):
    x, y = np.array(pairs, dtype=float).T
    knots, levels = isotonic(x, y)
    assert (np.diff(knots) > 0).all() and (np.diff(levels) > 0).all()
    assert set(np.round(levels, 9)) == set(np.round(IsotonicRegression().fit(x, y).predict(x), 9))


@given(xy)
def test_estimates_rise_with_the_surrogate_and_stay_within_what_was_seen(pairs):
    x, y = np.array(pairs, dtype=float).T
    query = np.linspace(-3, 12, 50)
    estimate = Isotonic()(np.zeros((len(x), 1)), x, y, np.zeros((50, 1)), query)[:, BEST]
    assert (np.diff(estimate) >= 0).all() and y.min() <= estimate.min() and estimate.max() <= y.max()


def test_batches_alternate_between_the_steps_and_promoted_keep_their_ids():
    history = run(two_step(), 8)
    for index in range(0, 8, 2):
        (cheap, _, _), (dear, _, state) = history[index], history[index + 1]
        assert {c.step for c in cheap.candidates} == {STEP1} and len(cheap.candidates) == 20
        assert {c.step for c in dear.candidates} == {STEP2} and len(dear.candidates) == 5
        asked = {c.id: c for batch, _, _ in history[: index + 1] for c in batch.candidates}
        assert all(dataclasses.replace(asked[c.id], step=STEP2) == c for c in dear.candidates)
        assert state.generation == index // 2 + 1


def test_no_genome_is_measured_twice():
    measured = [c.genome for batch, _, _ in run(two_step(), 40) for c in batch.candidates if c.step == STEP2]
    assert len(set(measured)) == len(measured) == 100


def test_the_inner_algorithm_learns_measurements_where_there_are_any_and_estimates_elsewhere():
    state = run(two_step(), 12)[-1][2]
    measured = {e.candidate.genome: e for e in state.measured}
    waiting = {e.candidate.genome for e in state.waiting}
    population = state.inner.population
    assert any(e.candidate.genome in measured for e in population)
    for e in population:
        known = measured.get(e.candidate.genome)
        assert known is None or e.measures["error"] == known.measures["error"]
        assert known is not None or e.candidate.genome in waiting
        assert "error" in e.measures and e.candidate.step == STEP2


def test_estimates_follow_the_latest_calibration():
    """After every generation the unmeasured members of the population lie on the map of all pairs so far."""
    for _, _, state in run(two_step(), 12)[1::2]:
        x = np.array([e.measures["surrogate"] for e in state.measured])
        y = np.array([e.measures["error"] for e in state.measured])
        measured = {e.candidate.genome for e in state.measured}
        for e in state.inner.population:
            if e.candidate.genome not in measured:
                query = np.array([e.measures["surrogate"]])
                expected = Isotonic()(np.zeros((len(x), 1)), x, y, np.zeros((1, 1)), query)
                assert e.measures["error"] == pytest.approx(expected[0, BEST])


def test_few_measurements_reach_more_with_a_cheap_step():
    budget, seeds = 60, range(4)
    plain = [reached(NSGA(TWO, population=20), TWO, seed, budget) for seed in seeds]
    guided = [reached(two_step(), TWO, seed, budget) for seed in seeds]
    assert min(guided) > max(plain)


def test_a_candidate_that_fails_when_measured_is_not_promoted_again():
    def broken(batch):
        return [fail(c) if c.step == STEP2 else e for c, e in zip(batch.candidates, evaluate(batch), strict=True)]

    history = run(two_step(), 10, evaluate=broken)
    measured = [c.genome for batch, _, _ in history for c in batch.candidates if c.step == STEP2]
    assert len(set(measured)) == len(measured) == 25
    failed = {e.candidate.genome for e in history[-1][2].measured if e.status is Status.FAILED}
    assert not failed & {e.candidate.genome for e in history[-1][2].inner.population}


def test_a_generation_without_anything_to_measure_is_skipped():
    algorithm = two_step()
    batch, asked = algorithm.ask(algorithm.init(0))
    state = algorithm.tell(asked, [fail(c) for c in batch.candidates])
    assert state.generation == 1 and {c.step for c in algorithm.ask(state)[0].candidates} == {STEP1}


def test_a_limit_on_what_only_step_two_measures_steers_by_the_estimate():
    problem = dataclasses.replace(TWO, constraints=(Constraint("error", 0.1),))
    state = run(two_step(problem), 30)[-1][2]
    late = [e.measures["error"] for e in state.measured[-40:]]
    early = [e.measures["error"] for e in state.measured[:10]]
    assert np.mean(np.array(late) <= 0.1) > 0.5 > np.mean(np.array(early) <= 0.1)


def test_a_lower_step_that_cannot_stand_in_is_refused():
    algorithm = TwoStep(TWO, NSGA(TWO, population=5), 2, surrogates={"error": "loss"})
    batch, asked = algorithm.ask(algorithm.init(0))
    with pytest.raises(ValueError, match=r"step1 must measure every objective.*without \['loss'\]"):
        algorithm.tell(asked, evaluate(batch))


def test_promotion_goes_by_gain_then_rank_then_crowding():
    values = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [0.6, 0.6], [np.inf, np.inf], [0.45, 0.55]])
    free = np.zeros(6)
    assert promotion_order(values, free)[:2] == [1, 2] and promotion_order(values, free)[-1] == 3
    order = promotion_order(values, free, np.array([[0.4, 0.5]]), (1.0, 1.0), 2)
    assert set(order[:2]) == {1, 2} and 4 not in order and len(order) == 5
    assert promotion_order(values, np.array([0, 1, 2, 0, 0, 3]), None, (1.0, 1.0), 6) == [0, 3, 1, 2, 5]


def test_the_first_measurements_are_few() -> None:
    algorithm = TwoStep(TWO, NSGA(TWO, population=20), 7, first=3, surrogates=SURROGATES)
    assert [len(batch.candidates) for batch, _, _ in run(algorithm, 6)] == [20, 3, 20, 7, 20, 7]
