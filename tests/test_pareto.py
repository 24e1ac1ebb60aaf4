"""Dominance, hypervolume, archive and rank correlation, each against another implementation or a law."""

import itertools

import numpy as np
import pytest
from analytic import Grid
from deap import tools
from hypothesis import given
from hypothesis import strategies as st
from points import Individual, point_sets
from scipy import stats

from evo.archive import best_under_budget, kendall_tau, pareto_front, step_agreement
from evo.candidates import STEP1, STEP2, Candidate, Evaluation, Status
from evo.pareto import constrained_ranks, crowding_distance, front_indices, hypervolume, hypervolume_gains, knee, ranks
from evo.problem import Constraint, Objective, Problem


@given(point_sets())
def test_ranks_equal_deaps_standard_sort(values):
    fronts = tools.sortNondominated([Individual(i, row) for i, row in enumerate(values)], len(values))
    expected = {individual.index: level for level, front in enumerate(fronts) for individual in front}
    assert ranks(values).tolist() == [expected[i] for i in range(len(values))]


@given(point_sets())
def test_crowding_distance_of_distinct_values_equals_deaps(values):
    values = values + np.random.default_rng(0).random(values.shape) * 1e-3
    individuals = [Individual(i, row) for i, row in enumerate(values)]
    tools.emo.assignCrowdingDist(individuals)
    expected = np.array([i.fitness.crowding_dist for i in individuals]) * values.shape[1]
    np.testing.assert_allclose(crowding_distance(values), expected, rtol=1e-9)


@given(point_sets(), st.integers(0, 2**32 - 1))
def test_rows_that_are_not_finite_rank_last_and_change_nothing(values, seed):
    rng = np.random.default_rng(seed)
    broken = values.copy()
    spoilt = rng.random(len(values)) < 0.4
    broken[spoilt, rng.integers(0, values.shape[1], size=spoilt.sum())] = rng.choice([np.nan, np.inf, -np.inf])
    got = ranks(broken)
    assert (got[~spoilt] == ranks(values[~spoilt])).all()
    assert (got[spoilt] > got[~spoilt].max(initial=-1)).all()
    assert set(front_indices(broken)) == set(np.flatnonzero(~spoilt)[ranks(values[~spoilt]) == 0])


@given(point_sets(max_rows=12), st.integers(0, 2**32 - 1))
def test_constrained_ranks_follow_debs_three_rules(values, seed):
    rng = np.random.default_rng(seed)
    violations = rng.choice([0.0, 0.0, 0.5, 1.0, np.inf], size=len(values))
    got = constrained_ranks(values, violations)
    for i, j in itertools.combinations(range(len(values)), 2):
        if violations[i] != violations[j]:
            assert (got[i] < got[j]) == (violations[i] < violations[j])
        elif violations[i] > 0:
            assert got[i] == got[j]
    feasible = violations == 0
    assert (got[feasible] == ranks(values[feasible])).all()


@given(point_sets(max_rows=10), st.integers(1, 7))
def test_hypervolume_equals_the_count_of_dominated_grid_cells(values, bound):
    cells = np.array(list(itertools.product(range(bound), repeat=values.shape[1])))
    dominated = (values[:, None, :] <= cells[None, :, :]).all(axis=2).any(axis=0)
    spoilt = np.vstack([values, np.full(values.shape[1], np.nan), np.full(values.shape[1], np.inf)])
    assert hypervolume(spoilt, [bound] * values.shape[1]) == pytest.approx(dominated.sum())


@given(point_sets(max_rows=10))
def test_hypervolume_never_falls_when_a_point_is_added(values):
    reference = [4.0] * values.shape[1]
    gains = hypervolume_gains(values[:-1], values[-1:], reference)
    assert gains[0] >= 0
    assert hypervolume(values, reference) == pytest.approx(hypervolume(values[:-1], reference) + gains[0])


def test_hypervolume_of_nothing_is_zero():
    assert hypervolume(np.zeros((0, 3)), [1, 1, 1]) == 0.0


@given(point_sets(), st.floats(0.1, 1e6), st.floats(-1e3, 1e3))
def test_the_knee_does_not_depend_on_units(values, scale, shift):
    assert knee(values) == knee(values * 2.0**10)
    chosen = knee(values * scale + shift)
    assert knee(np.vstack([values, np.full(values.shape[1], np.nan)])) == knee(values)
    spread = np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), 1.0)
    distance = np.linalg.norm((values - values.min(axis=0)) / spread, axis=1)
    assert distance[chosen] == pytest.approx(distance.min(), abs=1e-6)


def test_a_knee_needs_a_finite_point():
    with pytest.raises(ValueError, match="at least one finite point"):
        knee(np.full((2, 2), np.inf))


samples = st.integers(2, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 8), min_size=n, max_size=n) for _ in range(2)])
)


@given(samples)
def test_kendall_tau_equals_scipys(pair):
    a, b = np.array(pair[0]), np.array(pair[1])
    got, expected = kendall_tau(a, b), stats.kendalltau(a, b).statistic
    np.testing.assert_allclose(got.tau, expected, atol=1e-12)
    assert -1 <= got.low <= 1 and -1 <= got.high <= 1 and got.pairs == len(a)
    assert np.isnan(got.tau) or got.low <= got.tau <= got.high


def test_kendall_tau_equals_scipys_on_a_long_sample():
    rng = np.random.default_rng(0)
    a = rng.normal(size=5000)
    b = a + rng.normal(size=5000)
    assert kendall_tau(a, b).tau == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_interval_of_tau_covers_the_truth(rho):
    """Of a bivariate normal tau is 2 / pi asin(rho); the interval is asymptotic, hence the margin."""
    rng, truth = np.random.default_rng(1), 2 / np.pi * np.arcsin(rho)
    hits = 0
    for _ in range(400):
        x, noise = rng.normal(size=(2, 40))
        interval = kendall_tau(x, rho * x + np.sqrt(1 - rho**2) * noise)
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / 400 <= 0.99


def evaluation(name, genome, step=STEP2, version=0, status=Status.COMPLETED, **measures):
    return Evaluation(Candidate(name, 0, genome, step), status, measures, weights_version=version)


PROBLEM = Problem(
    Grid((4, 4)), (Objective("error"), Objective("speed", "max")), (Constraint("macs", 10.0),), reference=(1.0, 0.0)
)


def test_the_front_is_feasible_completed_distinct_and_in_order():
    rows = [
        evaluation("c", (2, 0), error=0.1, speed=1.0, macs=5),
        evaluation("b", (1, 0), error=0.3, speed=3.0, macs=5),
        evaluation("a", (1, 0), error=0.3, speed=3.0, macs=5),  # the same genome again
        evaluation("d", (3, 0), error=0.4, speed=2.0, macs=5),  # dominated
        evaluation("e", (3, 1), error=0.0, speed=9.0, macs=11),  # infeasible
        evaluation("f", (3, 2), status=Status.FAILED),
        evaluation("g", (3, 3), error=0.0, speed=9.0, macs=5, step=STEP1),  # another step
        evaluation("h", (2, 2), error=float("nan"), speed=9.0, macs=5),
        evaluation("i", (0, 0), error=0.2, speed=2.0, macs=5, version=0),
        evaluation("j", (0, 0), error=0.9, speed=0.1, macs=5, version=1),  # newer weights: worse now
    ]
    for order in (rows, rows[::-1]):
        assert [e.candidate.id for e in pareto_front(PROBLEM, order, STEP2)] == ["c", "a"]
    assert pareto_front(PROBLEM, [], STEP2) == ()


def test_best_under_budget_respects_budgets_constraints_and_direction():
    rows = [
        evaluation("a", (0, 0), error=0.1, speed=1.0, macs=9),
        evaluation("b", (0, 1), error=0.2, speed=2.0, macs=4),
        evaluation("c", (0, 2), error=0.0, speed=9.0, macs=99),
    ]
    assert best_under_budget(PROBLEM, rows, STEP2, "error") == 0.1
    assert best_under_budget(PROBLEM, rows, STEP2, "error", [("macs", 5)]) == 0.2
    assert best_under_budget(PROBLEM, rows, STEP2, "speed", [("macs", 9.5)]) == 2.0
    assert best_under_budget(PROBLEM, rows, STEP2, "error", [("macs", 1)]) is None


def test_steps_are_compared_by_candidate_id():
    lower = [evaluation(f"{i}", (0, 0), step=STEP1, score=float(i)) for i in range(8)]
    upper = [evaluation(f"{i}", (0, 0), error=i / 10.0) for i in (5, 2, 0, 7, 3)]
    lost = [evaluation("6", (0, 0), status=Status.FAILED)]
    agreement = step_agreement([*upper, *lower, *lost], STEP1, STEP2, "score", "error")
    assert agreement.tau == 1.0 and agreement.pairs == 5
