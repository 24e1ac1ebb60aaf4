"""Published methods: fitness by hand, the best code of a small network by looking at all of them, lengths of genomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from analytic import TWO, Grid
from nets import known
from scipy import stats
from torch import nn

from evaluators.describe import trace
from evaluators.gradients import collect_gradients
from evaluators.loss_tables import LossTables
from evaluators.models.cifar_resnet import resnet56
from evaluators.saliency import Ranking
from evaluators.statistics import collect
from evaluators.step1 import build_tables
from evo.algorithm import AnyAlgorithm
from evo.algorithms.layerwise import DONE, Layerwise
from evo.algorithms.roulette import RouletteGA
from evo.algorithms.stages import at_level, lowered, rates_within, stages_of, thresholds
from evo.candidates import STEP1, STEP2, Candidate, Evaluation, Status
from evo.problem import Constraint, Objective, Problem
from evo.randomness import stream
from evo.selection.fitness import Rank, Reciprocal, SavedCost, SavedGenes
from evo.selection.survival import roulette
from evo.variation.operators import segment_mutation
from search_spaces.options import SpaceOptions, build_space

CODES = SpaceOptions(channel_codes=True, weight_bits=(), activation_bits=(), factors=(), skip_blocks=False)
BITS = Problem(Grid((2,) * 5), (Objective("error"), Objective("weights")), reference=(1.0, 170.0))


def evaluated(genome: Sequence[int], **measures: float) -> Evaluation:
    return Evaluation(Candidate(str(genome), 0, tuple(genome), STEP2), Status.COMPLETED, measures)


def test_both_forms_of_tec_by_hand() -> None:
    """Two 3x3 layers of 2 and 3 filters on 4 channels: W = 9 (4 x 2 + 2 x 3) = 126; with filters (1, 0 | 1, 1, 0) of them
    9 (4 x 1 + 1 x 2) = 54 are left. E = 0.25: f = 0.75 + 0.5 x 2 / 5 = 0.95, and 0.75 + 0.5 x 72 / 126 = 1.0357."""
    problem = replace(BITS, reference=(1.0, 126.0))
    cut = evaluated((1, 0, 1, 1, 0), error=0.25, weights=54.0)
    assert SavedGenes(0.5)(problem, [cut]) == pytest.approx([0.95])
    assert SavedCost(0.5)(problem, [cut]) == pytest.approx([0.75 + 0.5 * 72 / 126])
    whole = evaluated((1,) * 5, error=0.1, weights=126.0)
    assert SavedGenes(0.5)(problem, [whole]) == pytest.approx([0.9])
    assert SavedCost(2.0)(problem, [whole]) == pytest.approx([0.9])


def test_fitness_of_what_failed_or_is_not_allowed_is_zero() -> None:
    limited = replace(BITS, constraints=(Constraint("weights", 100.0),))
    fine, heavy = evaluated((1, 0, 0, 0, 0), error=0.5, weights=90), evaluated((1,) * 5, error=0.1, weights=170)
    broken = Evaluation(replace(fine.candidate, id="x"), Status.FAILED, reason="out of memory")
    for form in (SavedCost(), SavedGenes(), Reciprocal(), Rank()):
        found = form(limited, [fine, heavy, broken])
        assert found[0] > 0 and found[2] == 0 and (found >= 0).all()
        assert found[1] == 0 if not isinstance(form, Rank) else found[1] < found[0]
    assert Reciprocal(0.5)(BITS, [fine]) == pytest.approx([1.0])
    assert Rank()(BITS, [fine, heavy, evaluated((0,) * 5, error=0.6, weights=170)]).tolist() == [2.0, 2.0, 1.0]


def test_roulette_draws_in_proportion() -> None:
    counts = np.bincount(roulette(stream(0, "roulette"), np.array([1.0, 0.0, 3.0, 6.0]), 5000), minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], 5000 * np.array([0.1, 0.3, 0.6])).pvalue > 0.001
    assert set(roulette(stream(1, "roulette"), np.zeros(3), 100).tolist()) == {0, 1, 2}


def test_a_segment_of_a_third_is_that_of_two_uniform_cuts() -> None:
    codes = np.zeros((4000, 60), dtype=np.int64)
    mutant = segment_mutation(stream(2, "cuts"), codes, np.full(60, 2), np.ones(60, dtype=bool), 1 / 3)
    assert (np.abs(np.diff(mutant, axis=1)).sum(axis=1) <= 2).all(), "one segment"
    cuts = np.sort(stream(3, "cuts").random((4000, 2)), axis=1)
    assert stats.ks_2samp(mutant.mean(axis=1), cuts[:, 1] - cuts[:, 0]).pvalue > 0.001
    starts = mutant.argmax(axis=1)[mutant.any(axis=1)] / 60
    assert stats.ks_2samp(starts, cuts[:, 0]).pvalue > 1e-3 / 60


def test_children_are_copies_crosses_and_mutants_in_the_given_shares() -> None:
    algorithm = RouletteGA(BITS, population=800, elites=1, mutation="segment", mutation_rate=1.0, fitness="saved_genes")
    batch, asked = algorithm.ask(algorithm.init(0))
    zeros = [evaluated(c.genome, error=0.5, weights=1.0) for c in batch.candidates]
    told = algorithm.tell(asked, [replace(e, candidate=c) for e, c in zip(zeros, batch.candidates, strict=True)])
    children = algorithm.ask(told)[0].candidates
    parents = {c.id: c.genome for c in batch.candidates}
    best = max(told.population, key=lambda e: -sum(e.candidate.genome)).candidate.genome
    assert children[0].genome == best, "the elite"
    inverted = [c.genome == tuple(1 - a for a in parents[c.parents[0]]) for c in children[1:] if len(c.parents) == 1]
    pairs = sum(len(c.parents) == 2 for c in children) / len(children)
    assert 0.7 < pairs < 0.9 and 0 < np.mean(inverted) < 0.6  # a cross makes two children, at equal chances 0.82


@cache
def tiny() -> LossTables:
    """6 + 6 channels, so that all 4,096 codes can be looked at."""
    torch.manual_seed(3)
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
    net = known(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)).eval(), (1, 8, 8))
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    gradients = collect_gradients(net.model, net.network, found, images, seed=2)
    return build_tables(build_space(net.network, CODES), net.model, net.trace, found, gradients, Ranking({}))


def searched(algorithm: AnyAlgorithm, rounds: int) -> list[Evaluation]:
    """Everything that was evaluated, both steps by the closed form."""
    state, found = algorithm.init(0), []
    for _ in range(rounds):
        batch, asked = algorithm.ask(state)
        if not batch.candidates:
            break
        scores = tiny().score(np.array([c.genome for c in batch.candidates]))
        rows = (dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True))
        told = [Evaluation(c, Status.COMPLETED, row) for c, row in zip(batch.candidates, rows, strict=True)]
        state, found = algorithm.tell(asked, told), found + told
    return found


def all_codes() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    codes = np.array([tiny().space.repair(code) for code in product((0, 1), repeat=12)])
    return codes, tiny().score(codes)


@pytest.mark.parametrize(("mutation", "rate"), [("flip", None), ("segment", 1 / 3)])
def test_the_genetic_algorithm_finds_the_best_of_all_codes(mutation: str, rate: float | None) -> None:
    codes, scores = all_codes()
    error = scores["predicted_loss_increase"]
    problem = Problem(
        tiny().space, (Objective("predicted_loss_increase"), Objective("macs")), reference=(1.0, scores["macs"].max())
    )
    weight = 0.5 * error.max()
    best = (1 - error + weight * (1 - scores["macs"] / scores["macs"].max())).max()
    algorithm = RouletteGA(
        problem, 64, fitness="saved_cost", fitness_params={"weight": weight}, mutation=mutation, mutation_rate=rate
    )
    found = SavedCost(weight)(problem, searched(algorithm, 40))
    assert found.max() == pytest.approx(best, rel=1e-9)
    assert 0 < codes[int(np.argmax(-error))].sum() <= 12


def test_layer_by_layer_every_code_is_the_best_of_its_size() -> None:
    """The network after each layer holds the code of that many channels with the least loss, the others being as they were."""
    space = tiny().space
    algorithm = Layerwise(Problem(space, TWO.objectives), targets=(0.4,), population=20, generations=12)
    found = searched(algorithm, 200)
    tuned = [e.candidate.genome for e in found if e.candidate.step == STEP2]
    whole = tiny().score(np.ones((1, 12), dtype=np.int64))["macs"][0]
    macs = tiny().score(np.array(tuned))["macs"] / whole
    assert len(tuned) == 2 and macs[-1] <= 0.4 < macs[0]
    before = (1,) * 12
    stages = stages_of(space)
    for genome in tuned:
        (stage,) = [s for s in stages if any(genome[g] != before[g] for g in s.genes)]
        level = sum(genome[g] for g in stage.genes)
        rivals = [c for c in product((0, 1), repeat=len(stage.genes)) if sum(c) == level]
        codes = np.tile(before, (len(rivals), 1))
        codes[:, list(stage.genes)] = rivals
        least = tiny().score(codes)["predicted_loss_increase"].min()
        assert tiny().score(np.array([genome]))["predicted_loss_increase"][0] == pytest.approx(least)
        before = genome
    assert {e.candidate.step for e in found} == {STEP1, STEP2}
    keys = [e.candidate.key for e in found if e.candidate.step == STEP2]
    assert [e.candidate.predecessor for e in found if e.candidate.step == STEP2] == ["", keys[0]]
    assert {e.candidate.predecessor for e in found if e.candidate.step == STEP1} == {"", keys[0]}
    first = searched(replace(algorithm, tuned_statistics=False), 200)
    assert not any(e.candidate.predecessor for e in first if e.candidate.step == STEP1)
    alone = searched(replace(algorithm, chained=False), 200)
    assert [e.candidate.genome for e in alone if e.candidate.step == STEP2] == tuned
    assert not any(e.candidate.predecessor for e in alone)


def test_the_least_sensitive_layer_comes_first_and_the_search_ends() -> None:
    algorithm = Layerwise(Problem(tiny().space, TWO.objectives), targets=(0.5, 0.3), population=8, generations=2)
    state, rounds = algorithm.init(1), 0
    orders, began = [], 0
    while (batch := algorithm.ask(state)[0]).candidates and rounds < 100:
        scores = tiny().score(np.array([c.genome for c in batch.candidates]))
        rows = (dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True))
        state = algorithm.tell(
            algorithm.ask(state)[1],
            [Evaluation(c, Status.COMPLETED, row) for c, row in zip(batch.candidates, rows, strict=True)],
        )
        rounds, orders = rounds + 1, [*orders, state.order]
        began += sum(c.step == STEP2 and not c.predecessor for c in batch.candidates)
    assert state.phase == DONE and state.fixed >= 3
    assert began == 2, "each target begins with the uncompressed network"
    losses = state.losses.mean(axis=1)
    assert [losses[i] for i in orders[-1]] == sorted(losses)


def test_levels_and_rates_by_hand() -> None:
    (stage,) = stages_of(Grid((2, 2, 2, 2)))
    assert stage.full == 4 and [stage.level(rate) for rate in (0.0, 0.5, 0.9, 1.0)] == [4, 2, 1, 1]
    assert lowered((1, 1, 1, 1), stage, np.array([0.3, 0.1, 0.2, 0.4]), 2) == (1, 0, 0, 1)
    losses = np.array([[0.1, 0.3], [0.2, 0.15]])
    assert rates_within(losses, (0.25, 0.5), 0.16) == (0.25, 0.0), "a loss never falls with the rate"
    assert thresholds(losses).tolist() == [-np.inf, 0.1, 0.15, 0.2, 0.3]
    code = at_level(stream(0, "level"), np.array([0, 3, 1]), np.array([2, 3, 1]), 2)
    assert code.sum() == 2 and ((code >= 0) & (code <= [2, 3, 1])).all()


def test_codes_of_a_resnet56_are_as_long_as_counted_by_hand() -> None:
    """A bit for each inner channel (16, 32 and 64 in each of 9 blocks per stage), and one for each of the 16 channels that all
    additions share, since the shortcuts only pad. Vega's PruneEA has node masks of 16 + 16 + 32 + 64 bits instead: 1,136."""
    space = build_space(trace(resnet56().eval(), torch.zeros(1, 3, 32, 32)).network, CODES)
    inner = 9 * (16 + 32 + 64)
    assert len(space.genes) == inner + 16 and inner + 128 == 1136


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"copy_rate": 0.5, "crossover_rate": 0.6}, "copy_rate \\+ crossover_rate must be at most 1"),
        ({"elites": 40}, "0 <= elites < population must hold, but got elites=40"),
        ({"initial": "all"}, "initial must be one of sampled, uniform, but got initial='all'"),
        ({"fitness": "saved"}, "fitness must be one of .*did you mean 'saved_cost'"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RouletteGA(TWO, **setting)  # type: ignore[arg-type]
