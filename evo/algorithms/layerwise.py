"""Genetic channel pruning layer by layer: Hu et al. 2018, arXiv 1805.11394, with the two-step approximation as its fitness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evo.algorithms.population import check_shares, check_sizes
from evo.algorithms.stages import Stage, at_level, lowered, rates_within, stages_of, thresholds
from evo.candidates import STEP1, STEP2, Batch, Candidate, Evaluation
from evo.problem import Objective, Problem
from evo.randomness import stream
from evo.registry import CROSSOVERS, MUTATIONS, resolve
from evo.selection.fitness import Reciprocal
from evo.selection.survival import roulette
from search_spaces.genome import Genome

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
UNITS, LAYERS, WHOLE, CODES, TUNE, DONE = "units", "layers", "whole", "codes", "tune", "done"


@dataclass(frozen=True)
class LayerwiseState:
    """What the next batch is about: every unit alone, every layer alone at every rate, whole networks per threshold, a population
    of codes of one layer, or the network so far, really built and tuned.

    `levels` are channels to keep per stage, `order` the stages from the least to the most sensitive, `at` the position in it;
    `genome` holds the codes that were fixed, `predecessor` is the key of the last network that was built and tuned towards the
    target. `fixed` counts the codes over all targets.
    """

    seed: int
    phase: str = UNITS
    asked: int = 0
    target: int = 0
    importance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    losses: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    levels: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    at: int = 0
    fixed: int = 0
    genome: Genome = ()
    predecessor: str = ""
    rounds: int = 0
    population: tuple[Evaluation, ...] = ()


Propose = Callable[[LayerwiseState], list[Genome]]
Read = Callable[[LayerwiseState, Sequence[Evaluation]], LayerwiseState]


@dataclass(frozen=True)
class Layerwise:
    """Prunes one layer after the other. `surrogate` is the lower step's prediction, `cost` the measure to bring to each of
    `targets` (shares of the uncompressed network's, descending), `rates` what a layer may lose.

    Every layer's share follows from one threshold on its loss alone, the lowest that reaches the target. In each layer, from the
    least sensitive on, a genetic algorithm looks for the code of that many channels with the least predicted loss: `population`
    codes, drawn bit by bit and brought to their number, roulette by 1 / loss, one elite, `generations` generations. Then the
    network so far is evaluated at the upper step, which tunes it by distillation, and the next layer follows. It ends by itself.

    With `chained` each of these networks goes on from the tuned weights of the one before, as in the paper; otherwise all from
    the uncompressed network's. With `tuned_statistics`, too, the loss of a code is what it loses beyond the network that was
    tuned before; otherwise it is that of all codes so far, as the uncompressed network's statistics have it.
    """

    problem: Problem
    targets: Sequence[float] = (0.5,)
    cost: str = "macs"
    surrogate: str = "predicted_loss_increase"
    rates: Sequence[float] = RATES
    population: int = 50
    generations: int = 30
    crossover: str = "two_point"
    crossover_rate: float = 0.8
    mutation: str = "flip"
    mutation_rate: float | None = None
    chained: bool = True
    tuned_statistics: bool = True
    lower: str = STEP1
    upper: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population, generations=self.generations)
        check_shares(crossover_rate=self.crossover_rate, mutation_rate=self.mutation_rate or 0.0)
        for name, shares in (("targets", self.targets), ("rates", self.rates)):
            if not shares or not all(0 < share < 1 for share in shares):
                raise ValueError(f"{name} must be shares between 0 and 1, but got {name}={list(shares)}; correct them")

    def init(self, seed: int) -> LayerwiseState:
        return LayerwiseState(seed, genome=self._full)

    @property
    def scores_tuned(self) -> bool:
        return self.chained and self.tuned_statistics

    @property
    def _full(self) -> Genome:
        return self.problem.space.repair([c - 1 for c in self.problem.space.cardinalities])

    @property
    def _stages(self) -> tuple[Stage, ...]:
        return stages_of(self.problem.space)

    def ask(self, state: LayerwiseState) -> tuple[Batch, LayerwiseState]:
        makers: Mapping[str, Propose] = {
            UNITS: self._units,
            LAYERS: self._layers,
            WHOLE: self._wholes,
            CODES: self._codes,
            TUNE: lambda state: [state.genome],
            DONE: lambda state: [],
        }
        proposals = makers[state.phase](state)
        beyond = state.predecessor if state.phase == CODES and self.scores_tuned else ""
        batch = tuple(
            Candidate(f"{state.asked:04d}-{i:04d}", state.fixed, genome, self.lower, predecessor=beyond)
            for i, genome in enumerate(map(self.problem.space.repair, proposals))
        )
        if state.phase == TUNE:  # under the id that it was scored by, so that the steps can be compared
            chosen = [e.candidate for e in state.population] or batch
            batch = tuple(replace(c, step=self.upper, predecessor=state.predecessor) for c in chosen)
        return Batch(batch), replace(state, asked=state.asked + 1)

    def tell(self, state: LayerwiseState, evaluations: Sequence[Evaluation]) -> LayerwiseState:
        told = sorted(evaluations, key=lambda e: e.candidate.key)
        readers: Mapping[str, Read] = {
            UNITS: self._weighed,
            LAYERS: self._probed,
            WHOLE: self._planned,
            CODES: self._bred,
            TUNE: self._tuned,
            DONE: lambda state, _: state,
        }
        return readers[state.phase](state, told)

    def _units(self, state: LayerwiseState) -> list[Genome]:
        """The anchors, and the whole network without each single unit."""
        alone = [(*self._full[:gene], 0, *self._full[gene + 1 :]) for gene in range(len(self._full))]
        return [*self.problem.space.anchors(), *alone]

    def _weighed(self, state: LayerwiseState, told: Sequence[Evaluation]) -> LayerwiseState:
        skipped = len(self.problem.space.anchors())
        importance = _column(told, self.surrogate)[skipped:]
        return replace(state, phase=LAYERS, importance=importance)

    def _layers(self, state: LayerwiseState) -> list[Genome]:
        return [
            lowered(self._full, stage, state.importance, stage.level(rate))
            for stage in self._stages
            for rate in self.rates
        ]

    def _probed(self, state: LayerwiseState, told: Sequence[Evaluation]) -> LayerwiseState:
        losses = _column(told, self.surrogate).reshape(len(self._stages), len(self.rates))
        if not np.isfinite(losses).any():  # nothing is known of any layer: all lose the same share
            losses = np.tile(np.array(self.rates), (len(self._stages), 1))
        order = np.argsort(losses.mean(axis=1), kind="stable")
        return replace(state, phase=WHOLE, losses=losses, order=tuple(order.tolist()))

    def _wholes(self, state: LayerwiseState) -> list[Genome]:
        """The network that every threshold stands for."""
        return [self._lowered(state, self._levels(state, t)) for t in thresholds(state.losses)]

    def _levels(self, state: LayerwiseState, threshold: float) -> tuple[int, ...]:
        rates = rates_within(state.losses, tuple(self.rates), threshold)
        return tuple(stage.level(rate) for stage, rate in zip(self._stages, rates, strict=True))

    def _lowered(self, state: LayerwiseState, levels: Sequence[int]) -> Genome:
        genome = self._full
        for stage, level in zip(self._stages, levels, strict=True):
            genome = lowered(genome, stage, state.importance, level)
        return genome

    def _planned(self, state: LayerwiseState, told: Sequence[Evaluation]) -> LayerwiseState:
        """The lowest threshold whose network is within the target; the first one's is the whole network."""
        cost = _column(told, self.cost)
        within = cost <= self.targets[state.target] * cost[0]
        chosen = int(np.argmax(within)) if within.any() else len(within) - 1
        levels = self._levels(state, float(thresholds(state.losses)[chosen]))
        return self._next(replace(state, levels=levels, at=0, genome=self._full, predecessor=""))

    def _tuned(self, state: LayerwiseState, told: Sequence[Evaluation]) -> LayerwiseState:
        """The next layer follows; a network that could not be tuned is nobody's predecessor."""
        done = [e.candidate.key for e in told if e.completed and self.chained]
        return self._next(replace(state, at=state.at + 1, predecessor=done[0] if done else state.predecessor))

    def _next(self, state: LayerwiseState) -> LayerwiseState:
        """On to the next layer that loses anything, or to the next target."""
        at = state.at
        while at < len(state.order) and state.levels[state.order[at]] >= self._stages[state.order[at]].full:
            at += 1
        if at < len(state.order):
            return replace(state, phase=CODES, at=at, rounds=0, population=())
        more = state.target + 1 < len(self.targets)
        return replace(state, phase=WHOLE if more else DONE, at=0, target=state.target + 1)

    def _codes(self, state: LayerwiseState) -> list[Genome]:
        """Codes of the layer at hand, with what was fixed before: random ones, then children of the population."""
        index = state.order[state.at]
        stage, level = self._stages[index], state.levels[index]
        rng = stream(state.seed, "codes", state.asked)
        highest = np.array(stage.highest)
        made: Iterable[np.ndarray]
        if state.population:
            made = self._children(rng, stage, state.population)
        else:
            made = (rng.binomial(highest, level / stage.full) for _ in range(self.population))
        codes = [at_level(rng, code, highest, level) for code in made]
        return [_with(state.genome, stage, code) for code in codes[: self.population]]

    def _children(self, rng: np.random.Generator, stage: Stage, population: Sequence[Evaluation]) -> list[np.ndarray]:
        codes = np.array([[e.candidate.genome[g] for g in stage.genes] for e in population], dtype=np.int64)
        fitness = Reciprocal()(self._predicted, population)
        pairs = (self.population + 1) // 2
        a, b = (codes[roulette(rng, fitness, pairs)] for _ in range(2))
        crossed = (rng.random(pairs) < self.crossover_rate)[:, None]
        mixed = resolve(CROSSOVERS, self.crossover)(rng, a, b)
        children = np.concatenate([np.where(crossed, new, old) for new, old in zip(mixed, (a, b), strict=True)])
        limits = np.array(stage.highest) + 1
        mutants = resolve(MUTATIONS, self.mutation)(
            rng, children, limits, np.ones(len(limits), dtype=bool), self.mutation_rate
        )
        return list(mutants)

    def _bred(self, state: LayerwiseState, told: Sequence[Evaluation]) -> LayerwiseState:
        """The best code survives beside the new ones; after the last generation it is fixed."""
        elite = state.population[:1]
        pool = [*elite, *(e for e in told if np.isfinite(_column([e], self.surrogate)).all())]
        pool.sort(key=lambda e: e.measures[self.surrogate])
        state = replace(state, population=tuple(pool), rounds=state.rounds + 1)
        if state.rounds < self.generations:
            return state
        stage = self._stages[state.order[state.at]]
        best = pool[0].candidate.genome if pool else self._lowered(state, state.levels)
        fixed = _with(state.genome, stage, np.array([best[g] for g in stage.genes]))
        return replace(
            state,
            phase=TUNE,
            genome=self.problem.space.repair(fixed),
            fixed=state.fixed + 1,
            population=tuple(pool[:1]),
        )

    @property
    def _predicted(self) -> Problem:
        return Problem(self.problem.space, (Objective(self.surrogate),))


def _with(genome: Genome, stage: Stage, codes: np.ndarray) -> Genome:
    alleles: Mapping[int, int] = dict(zip(stage.genes, codes.tolist(), strict=True))
    return tuple(alleles.get(at, allele) for at, allele in enumerate(genome))


def _column(evaluations: Sequence[Evaluation], measure: str) -> np.ndarray:
    """A measure of every evaluation (N,); NaN, which is never within a limit, where it is missing."""
    return np.array([e.measures.get(measure, np.nan) if e.completed else np.nan for e in evaluations], dtype=float)
