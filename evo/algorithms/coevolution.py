"""Cooperative co-evolution: a population per part of the genome, each individual scored together with a partner from the others.

Potter and De Jong (1994) in general; with `fitness_measure` and two generators as parts the search of Shu et al. (2019, CCG).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from evo.algorithms.parts import Part, parts_of
from evo.algorithms.population import check_shares, check_sizes, contenders
from evo.algorithms.proposals import Mating, Variation, children, fresh, genomes
from evo.archive import objective_values, violations
from evo.candidates import STEP2, Batch, Candidate, Evaluation
from evo.digests import GenomeSet
from evo.pareto import constrained_ranks, crowding_by_rank
from evo.problem import Problem
from evo.randomness import stream
from evo.registry import CROSSOVERS, MUTATIONS, SELECTIONS, resolve
from evo.selection.survival import roulette, tournament
from evo.variation.within import Within
from search_spaces.genome import Genome

Population = Sequence[Evaluation]
Rng = np.random.Generator
MATINGS = ("roulette", "tournament")


class Paired(NamedTuple):
    """A whole genome, of which one part is new and the rest is that of the opponents."""

    genome: Genome
    parents: tuple[str, ...] = ()
    opponents: tuple[str, ...] = ()


@dataclass(frozen=True)
class CoevolutionState:
    """`asked` turns were handed out, `told` came back. The populations of all parts lie in one tuple, told apart by role."""

    seed: int
    asked: int = 0
    told: int = 0
    population: tuple[Evaluation, ...] = ()
    seen: GenomeSet = GenomeSet()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Coevolution:
    """The parts take turns; a generation is one turn of each. `parts` maps a population's name to a pattern of gene names (by
    default two halves). In the first `alone` generations there is no partner yet: the rest of the network is uncompressed.

    With `fitness_measure`, measure NAME_PART of each part is maximised under the constraints (feasible first, by violation):
    everyone is scored with the current best of the other part; `elites` live on, the rest of the new population are copies
    (share `copied`), two children of crossover (`crossed`) or mutants, their parents drawn by roulette (Shu et al. 2019), which
    hardly selects where fitness differs little, or by `mating: tournament` (of two, the fitter). `first_measure` stands for it
    while there is no partner. A fitness that judges the whole pair alike for both parts never loses ground: the elite meets the
    partner beside which it was best.

    `independent` parts never meet: the rest of the network stays uncompressed, and each is scored beside that from the first
    generation on, which is what co-evolution is compared with.

    Without a fitness each population is survived by `selection` over the problem's objectives, parents are drawn by tournaments,
    crossed at `crossover_rate` and mutated, and the best partner is the member of the other part's front that is closest to the
    parent in these objectives. An individual keeps the partner with which it was measured.

    `within` brings every individual of a part within limits of its own, by the part's name.
    """

    problem: Problem
    population: int = 32
    parts: Mapping[str, str] = field(default_factory=dict)
    fitness_measure: str = ""
    first_measure: str = ""
    alone: int = 1
    independent: bool = False
    elites: int = 1
    copied: float = 0.2
    crossed: float = 0.7
    mating: str = "roulette"
    selection: str = "nsga2"
    crossover: str = "two_point"
    crossover_rate: float = 0.9
    mutation: str = "flip"
    mutation_rate: float | None = None
    step: str = STEP2
    within: Mapping[str, Within] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sizes(population=self.population, elites=self.elites, alone=self.alone)
        check_shares(
            copied=self.copied,
            crossed=self.crossed,
            copied_and_crossed=self.copied + self.crossed,
            crossover_rate=self.crossover_rate,
            mutation_rate=self.mutation_rate or 0.0,
        )
        if self.mating not in MATINGS:
            raise ValueError(f"mating must be one of {', '.join(MATINGS)}, but got mating={self.mating!r}; choose one")
        parts_of(self.problem.space, self.parts)

    def init(self, seed: int) -> CoevolutionState:
        return CoevolutionState(seed)

    def ask(self, state: CoevolutionState) -> tuple[Batch, CoevolutionState]:
        parts = parts_of(self.problem.space, self.parts)
        part = parts[state.asked % len(parts)]
        rng = stream(state.seed, "coevolution", state.asked)
        own = _of_role(state.population, part.name)
        others = [_of_role(state.population, other.name) for other in parts if other != part]
        met = state.asked >= self.alone * len(parts) and all(others)
        rest = others if met and not self.independent else None
        proposals = self._turn(parts, part, own, rest, state, rng)
        batch = _numbered(proposals, state.asked, state.asked // len(parts), part.name, self.step)
        return batch, replace(state, asked=state.asked + 1, seen=state.seen.plus(genomes(batch)))

    def tell(self, state: CoevolutionState, evaluations: Sequence[Evaluation]) -> CoevolutionState:
        told = {e.candidate.role for e in evaluations}
        names = [part.name for part in parts_of(self.problem.space, self.parts)]
        rng = stream(state.seed, "survival", state.told)
        survived: list[Evaluation] = []
        for name in names:
            own, new = _of_role(state.population, name), _of_role(evaluations, name)
            survived += self._survivors(own, new, rng) if name in told else own
        return replace(state, told=state.told + 1, population=tuple(survived))

    def _turn(
        self,
        parts: Sequence[Part],
        part: Part,
        own: Population,
        others: Sequence[Population] | None,
        state: CoevolutionState,
        rng: Rng,
    ) -> list[Paired]:
        """The individuals of one turn; `others` is None while there is no partner."""
        space, rest = self.problem.space, [p for p in parts if p != part]
        uncompressed = Paired(space.anchors()[0])

        def with_partner(codes: Genome, lineage: tuple[str, ...]) -> Paired:
            partner = uncompressed if others is None else self._partner(rest, others, own, lineage)
            return Paired(part.joined(codes, partner.genome), lineage, partner.opponents)

        limited = self.within.get(part.name)
        fitted = limited.fitted if limited else _unchanged
        samples = (part.of(space.sample(rng)) for _ in iter(int, 1))
        unrelated = (with_partner(limited.sampled(rng, codes) if limited else codes, ()) for codes in samples)
        if not own:
            first = state.asked < len(parts) and limited is None
            anchors = (Paired(anchor) for anchor in (space.anchors() if first else ()))
            return fresh(chain(anchors, unrelated), state.seen, self.population)
        if self.fitness_measure:
            bred = islice(self._bred_by_roulette(part, own, rng), self.population)
            return [with_partner(fitted(codes), lineage) for codes, lineage in bred]
        bred = islice(self._bred_by_tournament(part, own, rng), 10 * self.population)
        proposed = (with_partner(fitted(codes), lineage) for codes, lineage in bred)
        return fresh(chain(proposed, unrelated), state.seen, self.population)

    def _partner(
        self, rest: Sequence[Part], others: Sequence[Population], own: Population, lineage: tuple[str, ...]
    ) -> Paired:
        """The current best of every other part, put together."""
        parent = next((e for e in own if lineage and e.candidate.id == lineage[0]), None)
        genome, opponents = self.problem.space.anchors()[0], []
        for part, population in zip(rest, others, strict=True):
            best = self._best(population) if self.fitness_measure else self._closest(population, parent)
            genome = part.joined(part.of(best.candidate.genome), genome)
            opponents.append(best.candidate.id)
        return Paired(genome, (), tuple(opponents))

    def _best(self, population: Population) -> Evaluation:
        return population[int(self._order(population)[0])]

    def _closest(self, population: Population, parent: Evaluation | None) -> Evaluation:
        """Of the population's front the member closest to the parent, each objective scaled to 0..1; the first without one."""
        values = objective_values(self.problem, population)
        ranks = constrained_ranks(values, violations(self.problem, population))
        front = np.flatnonzero(ranks == ranks.min())
        if parent is None:
            return population[int(front[0])]
        low, high = values.min(axis=0), values.max(axis=0)
        away = (values[front] - self.problem.values(parent)) / np.where(high > low, high - low, 1.0)
        return population[int(front[np.square(away).sum(axis=1).argmin()])]

    def _order(self, population: Population) -> np.ndarray:
        """Indices from the fittest: feasible by fitness, then by violation."""
        return np.lexsort((-self._fitness(population), violations(self.problem, population)))

    def _fitness(self, population: Population) -> np.ndarray:
        """The fitness of each in its role, (N,)."""
        return np.array([e.measures.get(self._measure(e.candidate), np.nan) for e in population], dtype=float)

    def _measure(self, candidate: Candidate) -> str:
        alone = self.first_measure and not (candidate.opponents or self.independent)
        name = self.first_measure if alone else self.fitness_measure
        return f"{name}_{candidate.role}"

    def _bred_by_roulette(self, part: Part, own: Population, rng: Rng) -> Iterator[tuple[Genome, tuple[str, ...]]]:
        """Elites, then without end copies, pairs of children and mutants of parents drawn in proportion to their fitness."""
        for i in self._order(own)[: self.elites]:
            yield part.of(own[int(i)].candidate.genome), (own[int(i)].candidate.id,)
        crossover, mutation = resolve(CROSSOVERS, self.crossover), resolve(MUTATIONS, self.mutation)
        limits, ordinal = np.array(part.codes.cardinalities), np.array(part.codes.ordinal, dtype=bool)
        draw = self._mating(own, rng)
        while True:
            drawn = [own[int(i)].candidate for i in draw(2)]
            codes, way = [np.array([part.of(c.genome)]) for c in drawn], rng.random()
            if way < self.copied:
                yield part.of(drawn[0].genome), (drawn[0].id,)
            elif way < self.copied + self.crossed:
                for child in crossover(rng, *codes):
                    yield tuple(child[0].tolist()), tuple(dict.fromkeys(c.id for c in drawn))
            else:
                mutant = mutation(rng, codes[0], limits, ordinal, self.mutation_rate)
                yield tuple(mutant[0].tolist()), (drawn[0].id,)

    def _mating(self, own: Population, rng: Rng) -> Mating:
        """Draws so many parents."""
        if self.mating == "tournament":
            ranks = np.argsort(self._order(own))
            return partial(tournament, rng, ranks, np.zeros(len(own)))
        return partial(roulette, rng, self._chances(own))

    def _chances(self, own: Population) -> np.ndarray:
        """Weights of being drawn: the fitness of the feasible; where nobody is, the larger the smaller the violation."""
        excess = violations(self.problem, own)
        weights = np.where(excess <= 0, np.maximum(self._fitness(own), 0.0), 0.0)
        if weights.sum() <= 0:
            weights = 1.0 / (1.0 + excess)
        return np.asarray(weights)

    def _bred_by_tournament(self, part: Part, own: Population, rng: Rng) -> Iterator[tuple[Genome, tuple[str, ...]]]:
        values = objective_values(self.problem, own)
        ranks = constrained_ranks(values, violations(self.problem, own))
        mate = partial(tournament, rng, ranks, crowding_by_rank(values, ranks))
        crossover, mutation = resolve(CROSSOVERS, self.crossover), resolve(MUTATIONS, self.mutation)
        variation = Variation(crossover, self.crossover_rate, mutation, self.mutation_rate)
        parents = [replace(e.candidate, genome=part.of(e.candidate.genome)) for e in own]
        return ((child.genome, child.parents) for child in children(part.codes, rng, parents, mate, variation))

    def _survivors(self, own: Population, new: Population, rng: Rng) -> list[Evaluation]:
        if self.fitness_measure:
            scored = [e for e, f in zip(new, self._fitness(new), strict=True) if e.completed and np.isfinite(f)]
            return sorted(scored, key=lambda e: e.candidate.key) or list(own)
        pool = contenders(self.problem, own, new)
        survive = resolve(SELECTIONS, self.selection)
        kept = survive(objective_values(self.problem, pool), violations(self.problem, pool), self.population, rng)
        return [pool[i] for i in kept]


def _unchanged(codes: Genome) -> Genome:
    return codes


def _of_role(evaluations: Iterable[Evaluation], name: str) -> list[Evaluation]:
    return [e for e in evaluations if e.candidate.role == name]


def _numbered(proposals: Sequence[Paired], turn: int, generation: int, role: str, step: str) -> Batch:
    """The batch of a turn, with ids "TTTT-IIII"."""
    return Batch(
        tuple(
            Candidate(f"{turn:04d}-{i:04d}", generation, p.genome, step, p.parents, role, p.opponents)
            for i, p in enumerate(proposals)
        )
    )
