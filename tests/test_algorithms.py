"""The conformance suite of the ask/tell protocol: every registered algorithm, alone and inside the two-step wrapper."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analytic import ONE, SPACE, TWO, Grid, evaluate, fail, reached, run

from evo.algorithms.nsga import NSGA
from evo.algorithms.optuna_sampler import OptunaSearch
from evo.algorithms.proposals import Proposal, fresh
from evo.algorithms.random_search import RandomSearch
from evo.candidates import Evaluation, Status
from evo.digests import GenomeSet
from evo.problem import Constraint, Objective, Problem
from evo.registry import ALGORITHMS, STAGED, resolve
from evo.storage.checkpoint import decode, encode

TESTS = Path(__file__).parent
IMPORTED = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
SINGLE_OBJECTIVE = ("ga", "roulette", "metapruning")
GREEDY = ("autoslim",)  # deterministic, and no population: tests/test_cars.py
ON_SHARED_WEIGHTS = ("cars", "tas")  # evaluates its parents again with every version of the weights
POPULATIONS = [name for name in ALGORITHMS if name not in GREEDY]
SURROGATES = {"error": "surrogate"}


def problem_of(name: str) -> Problem:
    return ONE if name in SINGLE_OBJECTIVE else TWO


def alone(name, population=8):
    return resolve("algorithms", name)(problem_of(name), population=population)


def wrapped(name, population=8):
    problem = Problem(SPACE, (Objective("error"),), reference=(1.0,)) if name in SINGLE_OBJECTIVE else TWO
    inner = resolve("algorithms", name)(problem, population=population)
    return resolve("wrappers", "two_step")(problem, inner, promote=4, surrogates=SURROGATES)


def staged(name, population=8):
    settings = {"cost": "cost", "surrogate": "surrogate", "population": population, "generations": 2}
    return resolve("staged", name)(TWO, targets=(0.6, 0.3), **settings)


ALL = [pytest.param(alone, name, id=name) for name in POPULATIONS]
ALL += [pytest.param(wrapped, name, id=f"two_step-{name}") for name in POPULATIONS if name not in ON_SHARED_WEIGHTS]
ALL += [pytest.param(staged, name, id=name) for name in STAGED]
every_algorithm = pytest.mark.parametrize(("build", "name"), ALL)


def through_storage(algorithm, state):
    return decode(type(state), encode(state), like=algorithm.init(0))


def same(a, b) -> bool:
    """Equal states; numpy arrays compared by value."""
    return encode(a).equals(encode(b))


@every_algorithm
def test_ids_are_unique_and_genomes_legal(build, name):
    candidates = [c for batch, _, _ in run(build(name), 6) for c in batch.candidates]
    keys = [c.key for c in candidates]
    assert len(set(keys)) == len(keys) >= 24
    for c in candidates:
        SPACE.validate(c.genome)
    genomes = {c.id: c.genome for c in candidates}
    assert all(c.genome == genomes[c.id] and set(c.parents) <= genomes.keys() for c in candidates)


@every_algorithm
def test_a_run_starts_with_the_anchors(build, name):
    batch, _ = build(name).ask(build(name).init(3))
    assert tuple(c.genome for c in batch.candidates[:2]) == SPACE.anchors()


@every_algorithm
def test_ask_and_tell_are_pure(build, name):
    algorithm = build(name)
    for _, _, state in run(algorithm, 3):
        before = through_storage(algorithm, state)
        (batch, asked), (again, asked_again) = algorithm.ask(state), algorithm.ask(state)
        assert batch == again and same(asked, asked_again) and same(state, before)
        evaluations = tuple(evaluate(batch))
        told = algorithm.tell(asked, evaluations)
        assert same(told, algorithm.tell(asked, evaluations)) and same(asked, asked_again)


@every_algorithm
def test_the_order_of_evaluations_does_not_matter(build, name):
    backwards = run(build(name), 5, evaluate=lambda batch: evaluate(batch)[::-1])
    assert [batch for batch, _, _ in backwards] == [batch for batch, _, _ in run(build(name), 5)]


@every_algorithm
def test_the_seed_decides_the_run(build, name):
    runs = [[batch for batch, _, _ in run(build(name), 5, seed)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@every_algorithm
def test_a_stored_state_goes_on_like_the_original(build, name):
    algorithm, rounds = build(name), 4
    whole = run(algorithm, rounds)
    for done in range(1, rounds):
        rest = run(build(name), rounds - done, state=through_storage(algorithm, whole[done - 1][2]))
        assert [batch for batch, _, _ in rest] == [batch for batch, _, _ in whole[done:]]


@every_algorithm
def test_batches_that_failed_altogether_are_survived(build, name):
    algorithm = build(name)
    history = run(algorithm, 3, evaluate=lambda batch: [fail(c) for c in batch.candidates])
    history += run(algorithm, 3, state=history[-1][2])
    history += run(algorithm, 2, state=history[-1][2], evaluate=lambda batch: [fail(c) for c in batch.candidates])
    assert all(batch.candidates for batch, _, _ in history)
    batch, _ = algorithm.ask(history[-1][2])
    assert batch.candidates


@every_algorithm
def test_measures_that_are_not_finite_are_survived(build, name):
    def spoilt(batch):
        values = (np.nan, np.inf, 0.5)
        rows = enumerate(evaluate(batch))
        return [dataclasses.replace(e, measures={**e.measures, "cost": values[i % 3]}) for i, e in rows]

    assert all(batch.candidates for batch, _, _ in run(build(name), 5, evaluate=spoilt))


@pytest.mark.parametrize("name", [n for n in POPULATIONS if n not in ("random", *ON_SHARED_WEIGHTS)])
def test_every_algorithm_beats_random_search(name):
    problem, budget, seeds = problem_of(name), 120, range(2)
    baseline = [reached(RandomSearch(problem, population=20), problem, seed, budget) for seed in seeds]
    assert min(reached(alone(name, 20), problem, seed, budget) for seed in seeds) > max(baseline)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "ga", "random"])
def test_no_genome_is_proposed_twice_while_new_ones_can_be_found(name):
    batches = [batch for batch, _, _ in run(alone(name, 20), 25)]
    genomes = [c.genome for batch in batches for c in batch.candidates]
    assert len(set(genomes)) == len(genomes) == 500


@pytest.mark.parametrize("name", [n for n in POPULATIONS if n not in ON_SHARED_WEIGHTS])
def test_a_space_smaller_than_the_population_is_searched_whole(name):
    problem = Problem(Grid((2, 3)), problem_of(name).objectives, reference=problem_of(name).reference)

    def lookup(batch):
        totals = [float(sum(c.genome)) for c in batch.candidates]
        measures = [{"error": total, "cost": -total, "weighted": total} for total in totals]
        return [Evaluation(c, Status.COMPLETED, m) for c, m in zip(batch.candidates, measures, strict=True)]

    algorithm = resolve("algorithms", name)(problem, population=10)
    history = run(algorithm, 4, evaluate=lookup)
    assert all(len(batch.candidates) == 10 for batch, _, _ in history)
    assert len({c.genome for batch, _, _ in history for c in batch.candidates}) == 4


def test_fresh_genomes_come_first_and_seen_ones_fill_up():
    proposals = [Proposal((i,)) for i in (0, 1, 1, 2, 0)]
    assert [p.genome for p in fresh(proposals, GenomeSet().plus([(0,)]), 2)] == [(1,), (2,)]
    assert [p.genome for p in fresh(proposals, GenomeSet().plus([(0,)]), 4)] == [(1,), (2,), (0,), (1,)]


def test_constraints_are_met_before_objectives_are_improved():
    constrained = dataclasses.replace(ONE, constraints=(Constraint("cost", 0.2),))
    last = run(resolve("algorithms", "ga")(constrained, population=20), 25)[-1][2].population
    assert all(e.measures["cost"] <= 0.2 for e in last[:2])
    free = run(resolve("algorithms", "ga")(ONE, population=20), 25)[-1][2].population
    assert min(e.measures["weighted"] for e in free) < min(e.measures["weighted"] for e in last[:2])


def test_an_evaluation_told_again_replaces_the_one_before():
    algorithm = NSGA(TWO, population=4)
    batch, asked = algorithm.ask(algorithm.init(0))
    told = algorithm.tell(asked, evaluate(batch))
    best = told.population[0]
    corrected = dataclasses.replace(best, measures={"error": 9.0, "cost": 9.0})
    again = algorithm.tell(told, [corrected])
    assert corrected in again.population and best not in again.population


def test_the_genetic_algorithm_refuses_two_objectives():
    with pytest.raises(ValueError, match=r"ga needs one objective, but got objectives=\['error', 'cost'\]"):
        resolve("algorithms", "ga")(TWO)


@pytest.mark.parametrize("setting", [{"population": 0}, {"crossover_rate": 1.5}, {"mutation_rate": -0.1}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        NSGA(TWO, **setting)


def test_a_changed_optuna_history_is_noticed():
    algorithm = OptunaSearch(TWO, population=4)
    state = run(algorithm, 2)[-1][2]
    forged = dataclasses.replace(state, codes=(state.codes + 1) % 2)
    with pytest.raises(RuntimeError, match="must suggest what it suggested before"):
        algorithm.ask(forged)


def test_optuna_replays_alike_in_another_process():
    """Another hash seed must not change what Optuna suggests."""
    code = (
        "from test_algorithms import *\n"
        "for name in ('optuna_tpe', 'optuna_nsga2'):\n"
        "    print([c.genome for batch, _, _ in run(alone(name), 4) for c in batch.candidates])"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        for env in ({"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORTED} for seed in "12")
    ]
    assert outputs[0] == outputs[1] != ""
