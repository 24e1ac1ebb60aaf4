"""Laws and distributions of the variation operators, and of the random streams they draw from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evo.randomness import derived_seed, stream
from evo.registry import CROSSOVERS, MUTATIONS, resolve
from evo.variation.operators import step_mutation, two_point_crossover


@st.composite
def populations(draw):
    length, rows = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cardinalities = rng.integers(1, 9, size=length)
    codes = [np.floor(rng.random((rows, length)) * cardinalities).astype(np.int64) for _ in range(2)]
    return *codes, cardinalities, rng.random(length) < 0.5


seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", CROSSOVERS)
@given(data=populations(), seed=seeds)
def test_a_crossover_exchanges_alleles_and_makes_none(name, data, seed):
    a, b, _, _ = data
    before = a.copy(), b.copy()
    cross = resolve("crossovers", name)
    child_a, child_b = cross(np.random.default_rng(seed), a, b)
    kept = (child_a == a) & (child_b == b)
    exchanged = (child_a == b) & (child_b == a)
    assert (kept | exchanged).all()
    assert (a == before[0]).all() and (b == before[1]).all()
    assert np.array_equal(cross(np.random.default_rng(seed), a, b), (child_a, child_b))


@pytest.mark.parametrize("name", MUTATIONS)
@given(data=populations(), seed=seeds)
def test_a_mutation_stays_legal_and_changes_every_gene_at_rate_one(name, data, seed):
    codes, _, cardinalities, ordinal = data
    before = codes.copy()
    mutate = resolve("mutations", name)
    mutant = mutate(np.random.default_rng(seed), codes, cardinalities, ordinal, 1.0)
    assert ((mutant >= 0) & (mutant < cardinalities)).all() and mutant.dtype == codes.dtype
    assert ((mutant != codes) == np.broadcast_to(cardinalities > 1, codes.shape)).all()
    assert np.array_equal(mutate(np.random.default_rng(seed), codes, cardinalities, ordinal, 0.0), codes)
    assert np.array_equal(mutate(np.random.default_rng(seed), codes, cardinalities, ordinal, 1.0), mutant)
    assert (codes == before).all()


@pytest.mark.parametrize("name", MUTATIONS)
def test_genes_change_one_per_genome_on_average_by_default(name):
    codes = np.zeros((4000, 25), dtype=np.int64)
    mutant = resolve("mutations", name)(stream(1, name), codes, np.full(25, 6), np.ones(25, dtype=bool))
    assert stats.binomtest(int((mutant != codes).sum()), codes.size, 1 / 25).pvalue > 0.001


def test_step_mutation_follows_its_distribution():
    """Inner allele 4 of 9: a tenth uniform over the other 8, the rest spread evenly over -2, -1, +1, +2."""
    codes = np.full((20_000, 1), 4)
    mutant = step_mutation(stream(2, "step"), codes, np.array([9]), np.array([True]), 1.0)
    expected = np.full(9, 0.1 / 8)
    expected[[2, 3, 5, 6]] += 0.9 / 4
    others = np.arange(9) != 4
    counts = np.bincount(mutant[:, 0], minlength=9)
    assert stats.chisquare(counts[others], 20_000 * expected[others]).pvalue > 0.001


def test_categorical_genes_are_resampled_evenly():
    codes = np.zeros((20_000, 1), dtype=np.int64)
    mutant = step_mutation(stream(3, "step"), codes, np.array([5]), np.array([False]), 1.0)
    assert stats.chisquare(np.bincount(mutant[:, 0], minlength=5)[1:]).pvalue > 0.001


def test_two_point_crossover_exchanges_one_segment():
    a, b = np.zeros((500, 20), dtype=np.int64), np.ones((500, 20), dtype=np.int64)
    child, _ = two_point_crossover(stream(4, "cuts"), a, b)
    assert (np.abs(np.diff(child, axis=1)).sum(axis=1) <= 2).all()
    assert 0.25 < child.mean() < 0.42  # two uniform cuts enclose a third of the genome on average


def test_streams_depend_on_every_argument_and_on_nothing_else():
    positions = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 1), (0, "a", 1, 0), (0, "a", 10)]
    first = [stream(*position).random() for position in positions]
    assert len(set(first)) == len(positions)
    assert first == [stream(*position).random() for position in positions]
    assert len({derived_seed(*position) for position in positions}) == len(positions)
    assert all(0 <= derived_seed(seed, "x") < 2**31 for seed in range(100))


def test_streams_never_change_between_versions():
    assert stream(7, "proposals", 3).integers(0, 1000, size=5).tolist() == [103, 311, 481, 279, 867]
    assert derived_seed(7, "optuna") == 170289569
