"""Survival and tournaments against DEAP's own selection and the rules they stand for."""

import numpy as np
import pytest
from deap import tools
from hypothesis import given
from hypothesis import strategies as st
from points import Individual, point_sets

from evo.pareto import constrained_ranks, crowding_by_rank, hypervolume, ranks
from evo.randomness import stream
from evo.registry import SELECTIONS, resolve
from evo.selection.survival import divisions, nsga2_survival, nsga3_survival, tournament

seeds = st.integers(0, 2**32 - 1)


@st.composite
def pools(draw):
    """Values with ties and broken rows, violations, and how many shall survive."""
    values = draw(point_sets())
    rng = np.random.default_rng(draw(seeds))
    values[rng.random(len(values)) < 0.2] = rng.choice([np.nan, np.inf])
    violations = rng.choice([0.0, 0.0, 0.0, 0.5, 2.0, np.inf], size=len(values))
    return values, violations, draw(st.integers(1, len(values) + 2))


@pytest.mark.parametrize("name", SELECTIONS)
@given(pool=pools(), seed=seeds)
def test_survivors_are_distinct_and_no_one_left_out_ranks_before_them(name, pool, seed):
    values, violations, size = pool
    kept = resolve("selections", name)(values, violations, size, np.random.default_rng(seed))
    assert len(set(kept.tolist())) == len(kept) == min(size, len(values))
    rank = constrained_ranks(values, violations)
    out = np.setdiff1d(np.arange(len(values)), kept)
    assert rank[kept].max() <= rank[out].min(initial=len(values))


@given(point_sets(), seeds)
def test_nsga2_survival_is_deaps_with_the_standard_sort(values, seed):
    """Up to the choice among equally crowded points, of which the extremes of a front are many."""
    values = values + np.random.default_rng(seed).random(values.shape) * 1e-3
    size = max(1, len(values) // 2)
    chosen = [i.index for i in tools.selNSGA2([Individual(i, row) for i, row in enumerate(values)], size)]
    kept = nsga2_survival(values, np.zeros(len(values)), size, np.random.default_rng(0))
    rank = ranks(values)
    crowding = np.round(crowding_by_rank(values, rank), 9)
    places = np.unique([rank, crowding], axis=1, return_inverse=True)[1]
    assert sorted(places[kept]) == sorted(places[chosen])


@pytest.mark.parametrize("name", SELECTIONS)
def test_survival_does_not_depend_on_units(name):
    values = np.random.default_rng(5).random((60, 3))
    in_units = values * [1.0, 4e7, 1e-4] + [0.0, 1e6, 3.0]
    survive = resolve("selections", name)
    kept = [survive(v, np.zeros(60), 20, stream(1, "survival")).tolist() for v in (values, in_units)]
    assert kept[0] == kept[1]


def test_nsga3_draws_from_its_stream_and_leaves_the_global_generator_alone():
    values = np.random.default_rng(5).random((80, 3))
    np.random.seed(11)
    before = np.random.get_state()[1].tolist()
    kept = [nsga3_survival(values, np.zeros(80), 30, stream(1, "survival", i)).tolist() for i in (0, 0, 1)]
    assert np.random.get_state()[1].tolist() == before
    assert kept[0] == kept[1] != kept[2]


def test_nsga3_keeps_a_better_spread_front_than_chance():
    """On the unit simplex every point is non-dominated: survival decides by spread alone."""
    values = stream(3, "simplex").dirichlet(np.ones(3), size=200)
    kept = values[nsga3_survival(values, np.zeros(200), 28, stream(3, "survival"))]
    chance = [hypervolume(stream(3, "chance", i).permutation(values)[:28], [1.1] * 3) for i in range(50)]
    assert hypervolume(kept, [1.1] * 3) > max(chance)


@pytest.mark.parametrize(
    ("size", "objectives", "expected"), [(9, 1, 1), (40, 2, 39), (91, 3, 12), (90, 3, 11), (2, 4, 1)]
)
def test_reference_points_do_not_outnumber_the_population(size, objectives, expected):
    assert divisions(size, objectives) == expected


def test_a_tournament_prefers_rank_then_crowding():
    rank, crowding = np.array([0, 0, 1, 2]), np.array([1.0, 2.0, 9.0, 9.0])
    winners = tournament(stream(1, "tournament"), rank, crowding, 40_000)
    shares = np.bincount(winners, minlength=4) / 40_000
    # The best of two draws from an order of four wins 7, 5, 3 and 1 of 16 times.
    np.testing.assert_allclose(shares, np.array([5, 7, 3, 1]) / 16, atol=0.01)


def test_equal_candidates_win_equally_often():
    winners = tournament(stream(2, "tournament"), np.zeros(4), np.full(4, np.inf), 40_000)
    np.testing.assert_allclose(np.bincount(winners) / 40_000, 0.25, atol=0.01)


def test_infeasible_rows_survive_by_violation_whatever_their_values():
    values = np.array([[0.0, 0.0], [9.0, 9.0], [1.0, 1.0], [np.nan, 0.0], [5.0, 5.0]])
    violations = np.array([0.2, 0.1, np.inf, 0.0, 0.0])
    assert nsga2_survival(values, violations, 3, stream(0, "x")).tolist() == [4, 1, 0]
    assert ranks(values).tolist() == [0, 3, 1, 4, 2]
