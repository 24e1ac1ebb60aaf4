"""The search among the tables of the cheap step, and the correction of its terms, on problems small enough to enumerate."""

import dataclasses
import inspect
import json
from itertools import product

import numpy as np
import pytest
from analytic import SPACE, TWO, cost, error, measure, reached, run

from benchmarks import ablation
from evaluators.term_weights import LEAST, fit_weights
from evo.algorithms.nsga import NSGA
from evo.algorithms.two_step import TwoStep
from evo.archive import kendall_tau
from evo.candidates import STEP1, Evaluation, Status
from evo.config.schema import AlgorithmConfig
from evo.pareto import front_indices
from evo.problem import Constraint
from evo.registry import resolve
from evo.selection.promotion import expected_gains, promotion_order
from evo.storage.checkpoint import decode, encode
from evo.variation.feasible_space import FeasibleSpace
from evo.variation.local_search import LocalSearch, Unweighted, price_range, prices_between
from evo.variation.separable import Separable, descend
from search_spaces.tables import Table, along, summed

SIZES = (4, 3, 5, 2)
SURROGATES = {"error": "surrogate"}


def knapsack(seed: int = 0) -> Separable:
    """Losses of single genes and two costs, one of which couples neighbouring genes."""
    rng = np.random.default_rng(seed)
    terms = [Table((g,), (n,), np.sort(rng.random((n, 1)), axis=0)[::-1]) for g, n in enumerate(SIZES)]
    own = [Table((g,), (n,), np.stack([np.arange(n) * (g + 1.0), np.zeros(n)], axis=1)) for g, n in enumerate(SIZES)]
    pairs = [
        Table((g, g + 1), SIZES[g : g + 2], np.stack([np.zeros(SIZES[g] * SIZES[g + 1]), np.outer(
            np.arange(SIZES[g]), np.arange(SIZES[g + 1])).ravel()], axis=1))
        for g in range(3)
    ]  # fmt: skip
    full = tuple(n - 1 for n in SIZES)
    return Separable(SIZES, full, tuple(terms), (0, 1, 2, 3), (*own, *pairs), ("own", "coupled"))


def everything() -> np.ndarray:
    return np.array(list(product(*map(range, SIZES))))


def test_values_along_a_gene_are_those_of_the_changed_codes() -> None:
    table, codes = knapsack().costs[-1], everything()[::7]
    found = along(table, 3, codes)
    for allele in range(2):
        changed = codes.copy()
        changed[:, 3] = allele
        np.testing.assert_array_equal(found[:, allele], summed([table], changed, 2))


@pytest.mark.parametrize("seed", range(3))
def test_descent_finds_the_best_genome_for_its_prices(seed: int) -> None:
    """Compared with every genome there is: exact where only one gene's tables count, and never worse than a single change."""
    model, all_codes, count = knapsack(seed), everything(), 60
    prices = np.random.default_rng(seed).uniform(0, 0.3, (count, 2)) * [1, seed > 0]
    weights = np.ones((count, 4))
    found = descend(model, np.tile(model.full, (count, 1)), weights, prices)
    values = summed(model.terms, all_codes, 1) + model.cost(all_codes) @ prices.T
    reached_values = (summed(model.terms, found, 1) + model.cost(found) @ prices.T).diagonal()
    if seed == 0:
        np.testing.assert_allclose(reached_values, values.min(axis=0))
    for gene, size in enumerate(SIZES):
        for allele in range(size):
            changed = found.copy()
            changed[:, gene] = allele
            others = (summed(model.terms, changed, 1) + model.cost(changed) @ prices.T).diagonal()
            assert (reached_values <= others + 1e-12).all()


def test_proposals_lie_on_the_front_of_the_closed_form_and_cover_its_costs() -> None:
    model = knapsack().columns(["own"])
    search = LocalSearch(model, ("own",), Unweighted(4), "error")
    none = np.zeros((0, 4), dtype=np.int64)
    found = search.propose(np.random.default_rng(0), 100, none, none, np.zeros(0))
    points = np.hstack([summed(model.terms, everything(), 1), model.cost(everything())])
    front = {tuple(everything()[i]) for i in front_indices(points)}
    assert {tuple(code) for code in found.tolist()} <= front
    assert len(found) >= 5 and (found == model.full).all(axis=1).any()


def test_prices_span_what_single_changes_cost() -> None:
    cost = np.array([[0.0, 5], [1, 5], [3, 5]])
    low, high = price_range([(np.array([5.0, 1, 0]), cost), (np.array([0.0, 0, 2]), cost)])
    np.testing.assert_allclose([low[0], high[0]], np.quantile([4.0, 0.5], (0.02, 0.98)))
    prices = prices_between(np.random.default_rng(0), 50, low, high)
    assert low[1] == high[1] == 0 and not prices[:, 1].any()
    assert ((prices[:, 0] == 0) | (prices[:, 0] >= low[0])).all() and prices[:, 0].max() <= high[0]
    assert 2 <= (prices[:, 0] == 0).sum() <= 8


def test_measured_losses_correct_the_terms() -> None:
    """Held out: the corrected terms rank networks whose first kind of term counts three times, the plain sum does not."""
    rng = np.random.default_rng(0)
    terms = rng.gamma(0.5, size=(160, 12))
    truth = np.array([3.0] * 4 + [0.4] * 8)
    z = 0.02 * (terms @ truth) ** 1.2 * np.exp(0.05 * rng.standard_normal(160))
    kinds = ["width"] * 4 + ["bits"] * 8
    plain = kendall_tau(terms[80:].sum(axis=1), z[80:]).tau
    taus = []
    for known in (0, 10, 40, 80):
        fitted = fit_weights(terms[:known], z[:known], kinds)
        mean, deviation = fitted.predict(terms[80:])
        taus.append(kendall_tau(mean, z[80:]).tau)
    off = np.abs(np.log(z[80:] + LEAST) - mean) / deviation
    assert taus[0] == pytest.approx(plain, abs=1e-9) and taus == sorted(taus) and taus[-1] > plain + 0.15
    assert 0.8 < (off < 1.96).mean() <= 1.0
    drawn = fitted.weights(rng.standard_normal((200, 2 + 2 + 12)))
    assert (drawn > 0).all() and drawn[:, :4].mean() > 3 * drawn[:, 4:].mean()


def test_no_measurement_is_needed_to_begin() -> None:
    fitted = fit_weights(np.zeros((0, 3)), np.zeros(0), ["a", "a", "b"])
    np.testing.assert_allclose(fitted.weights(np.zeros((1, 7))), 1.0)
    mean, deviation = fitted.predict(np.array([[1.0, 1.0, 1.0], [4.0, 4.0, 4.0]]))
    assert mean[0] < mean[1] and (deviation > 0.5).all()


def test_the_expected_gain_counts_what_is_uncertain() -> None:
    front, reference = np.array([[0.5, 0.5]]), (1.0, 1.0)
    sure, unsure = np.array([[0.5, 0.5]]), [np.array([[x, 0.5]]) for x in (0.3, 0.5, 0.7)]
    assert expected_gains(front, [sure], reference) == pytest.approx([0.0])
    assert expected_gains(front, unsure, reference) == pytest.approx([0.2 * 0.5 / 6])
    values = np.array([[0.5, 0.49], [0.5, 0.5]])
    possible = [np.array([[0.5, 0.49], [x, 0.5]]) for x in (0.1, 0.5, 0.9)]
    assert promotion_order(values[1:], np.zeros(1), front, reference, 1, [p[1:] for p in possible]) == [0]


def terms_of_error() -> Separable:
    """The analytic problem as tables; the closed form weighs the terms wrongly."""
    genes, full = range(len(SPACE.cardinalities)), tuple(c - 1 for c in SPACE.cardinalities)
    wrong = np.linspace(0.5, 2.0, len(full))[::-1]

    def change(gene: int, worth: str) -> np.ndarray:
        codes = [(*full[:gene], a, *full[gene + 1 :]) for a in range(SPACE.cardinalities[gene])]
        values = [measure(dataclasses.replace(SOME, genome=code)).measures[worth] for code in codes]
        return np.array(values)[:, None]

    terms = [Table((g,), (full[g] + 1,), wrong[g] * (change(g, "error") - error(full))) for g in genes]
    costs = [Table((g,), (full[g] + 1,), change(g, "cost")) for g in genes]
    return Separable(SPACE.cardinalities, full, tuple(terms), tuple(genes), tuple(costs), ("cost",))


def within(upper: float) -> FeasibleSpace:
    model = dataclasses.replace(terms_of_error(), full=tuple(c - 1 for c in SPACE.cardinalities))
    return FeasibleSpace(SPACE, CostOf(), model, (Constraint("cost", upper),), ("cost",))


@dataclasses.dataclass(frozen=True)
class CostOf:
    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        return {"cost": np.array([cost(tuple(g)) for g in genomes.tolist()])}


def test_repair_moves_genomes_within_hard_limits_and_leaves_others_alone() -> None:
    space, rng = within(0.3), np.random.default_rng(0)
    moved = 0
    for _ in range(60):
        asked = SPACE.sample(rng)
        repaired = space.repair(asked)
        SPACE.validate(repaired)
        assert cost(repaired) <= 0.3 and space.repair(repaired) == repaired
        assert repaired == asked or cost(asked) > 0.3
        moved += repaired != asked
    assert moved > 20 and cost(space.anchors()[0]) <= 0.3
    assert within(-1.0).repair(asked) == asked, "nothing can be done"


def test_what_repair_gives_up_is_worth_least() -> None:
    """Better than giving up genes at random until the limit holds, and hardly below it."""
    space, rng = within(0.35), np.random.default_rng(1)
    repaired, at_random = [], []
    for _ in range(20):
        asked = tuple(c - 1 for c in SPACE.cardinalities)
        repaired.append(space.repair(asked))
        codes = list(asked)
        while cost(SPACE.repair(codes)) > 0.35:
            gene = int(rng.integers(len(codes)))
            codes[gene] = max(0, codes[gene] - 1)
        at_random.append(SPACE.repair(codes))
    assert error(repaired[0]) < min(error(genome) for genome in at_random)
    assert 0.25 < cost(repaired[0]) <= 0.35


@pytest.mark.parametrize("name", ["nsga2", "random", "optuna_tpe"])
def test_every_algorithm_stays_within_the_limits(name: str) -> None:
    problem = dataclasses.replace(TWO, space=within(0.3), constraints=(Constraint("cost", 0.3),))
    algorithm = resolve("algorithms", name)(problem, population=8)
    assert all(cost(c.genome) <= 0.3 for batch, _, _ in run(algorithm, 3) for c in batch.candidates)


def test_every_variant_of_the_ablation_is_a_setting() -> None:
    known = set(inspect.signature(TwoStep).parameters)
    for name, text in ablation.algorithms().items():
        config = AlgorithmConfig.model_validate(json.loads(text))
        assert name == ablation.ONE_STEP or set(config.params) <= known


SOME = run(NSGA(TWO, population=1), 1)[0][0].candidates[0]


def test_few_measurements_reach_more_with_seeds_from_the_tables() -> None:
    model = terms_of_error()
    search = LocalSearch(model, ("cost",), Unweighted(len(model.terms)), "error")
    inner = NSGA(TWO, population=20)
    plain = TwoStep(TWO, inner, 5, surrogates=SURROGATES)
    searched = dataclasses.replace(plain, local_search=search)
    budget = 15
    without = [reached(plain, TWO, seed, budget) for seed in range(3)]
    found = [reached(searched, TWO, seed, budget) for seed in range(3)]
    assert min(found) > max(without)


def test_local_search_is_a_function_of_its_place_and_can_be_switched_off() -> None:
    model = terms_of_error()
    search = LocalSearch(model, ("cost",), Unweighted(len(model.terms)), "error")
    algorithm = TwoStep(
        TWO, NSGA(TWO, population=8), 4, surrogates=SURROGATES, local_search=search, seeds=30, neighbours=0
    )
    state = algorithm.init(1)
    batch, asked = algorithm.ask(state)
    assert batch == algorithm.ask(state)[0] and len({c.genome for c in batch.candidates}) > 20
    assert len({c.id for c in batch.candidates}) == len(batch.candidates)
    for _ in range(2):
        evaluations = [scored(c) if c.step == STEP1 else measure(c) for c in batch.candidates]
        batch, asked = algorithm.ask(algorithm.tell(asked, evaluations[::-1]))
    assert len(batch.candidates) == 8 and {c.step for c in batch.candidates} == {STEP1}


def test_a_search_with_proposals_goes_on_from_storage() -> None:
    model = terms_of_error()

    def begin() -> TwoStep:
        search = LocalSearch(model, ("cost",), Unweighted(len(model.terms)), "error")
        return TwoStep(
            TWO, NSGA(TWO, population=6), 3, surrogates=SURROGATES, local_search=search, seeds=20, neighbours=20
        )

    whole = run(begin(), 5)
    for done in range(1, 5):
        state = decode(type(whole[0][2]), encode(whole[done - 1][2]), like=begin().init(0))
        rest = run(begin(), 5 - done, state=state)
        assert [batch for batch, _, _ in rest] == [batch for batch, _, _ in whole[done:]]


def scored(candidate) -> Evaluation:
    given = measure(candidate).measures
    return Evaluation(candidate, Status.COMPLETED, {"surrogate": given["error"], "cost": given["cost"]})


def test_a_network_that_breaks_against_the_prediction_is_learned_from() -> None:
    """Two measured genomes were thought to be equally good; one of them is broken, and its like must not be tried again."""
    terms = np.array([[6.0, 0.0], [0.0, 6.0]])
    before, _ = fit_weights(terms[:0], np.zeros(0), ["a", "b"]).predict(terms)
    after, _ = fit_weights(terms, np.array([0.1, 1.2]), ["a", "b"]).predict(terms)
    assert before[0] == before[1] and np.exp(before[0]) < 0.25
    assert after[1] - after[0] > 0.8 and np.exp(after[1]) > 0.3
