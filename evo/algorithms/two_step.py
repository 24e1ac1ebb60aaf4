"""Two-step fitness around any algorithm: score everyone cheaply, measure some, and let measurements correct scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evo.algorithm import AnyAlgorithm
from evo.algorithms.fidelity_pairs import both_measured, codes_of, with_lower
from evo.algorithms.halving import hopeful
from evo.algorithms.population import check_counts, check_shares, check_sizes
from evo.archive import feasible, objective_values, pareto_front, violations
from evo.candidates import STEP1, STEP2, Batch, Candidate, Evaluation
from evo.problem import Problem
from evo.randomness import stream
from evo.registry import CALIBRATIONS, resolve
from evo.selection.calibration import BEST, NODES, Calibration
from evo.selection.promotion import promotion_order
from evo.variation.local_search import LocalSearch
from search_spaces.genome import Genome


@dataclass(frozen=True)
class TwoStepState:
    """`waiting` holds lower-step evaluations without a measurement, `measured` every upper-step evaluation so far.

    A measured evaluation also carries its lower-step measures. While `promoting`, the next batch is of the upper step, or of the
    step before it with number `rung`; before that, `cheap` batches of the generation were scored. `raced` are all evaluations at
    steps between, `racing` those that go on from the one before.
    """

    seed: int
    inner: Any
    generation: int = 0
    promoting: bool = False
    cheap: int = 0
    waiting: tuple[Evaluation, ...] = ()
    measured: tuple[Evaluation, ...] = ()
    rung: int = 0
    raced: tuple[Evaluation, ...] = ()
    racing: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class TwoStep:
    """A generation is `cheap_rounds` batches of `inner` at the lower step (one in the first), then `promote` at the upper (at
    most `first` while nothing is measured, since a few measurements already tell the scale of the predictions).

    `surrogates` names, for every measure that the lower step cannot give, the lower-step measure that rises with it
    (with its minimised value). Unmeasured candidates are told to `inner` with a value estimated from all pairs of the run so
    far, by the measure's entry in `calibrations` or else by `calibration`; up to `memory` of them stay eligible for promotion,
    and are told again with every better estimate, so no early overestimate lives on. Promoted is what is expected to add most
    hypervolume, given how uncertain the estimates are. Genomes measured before are not promoted again.

    With `local_search`, the first batch of every generation holds what it proposes as well: `seeds` in the first generation, then
    `neighbours`. These are told to `inner` like its own.

    With `rungs` (steps between lower and upper, cheapest first) the promoted begin at the first of them, and only the share
    `keep` goes on from each to the next. Those left behind count as measured by their last rung, and are not promoted again.
    With `continue_rungs` who goes on does so from the weights that it was tuned to at the rung below: tuning adds up.
    """

    problem: Problem
    inner: AnyAlgorithm
    promote: int = 10
    first: int = 4
    surrogates: Mapping[str, str] = field(default_factory=lambda: {"top1_error": "predicted_loss_increase"})
    calibration: str | Calibration = "isotonic"
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    local_search: LocalSearch | None = None
    seeds: int = 300
    neighbours: int = 200
    memory: int = 200
    lower: str = STEP1
    upper: str = STEP2
    cheap_rounds: int = 1
    rungs: Sequence[str] = ()
    keep: float = 0.5
    continue_rungs: bool = True

    def __post_init__(self) -> None:
        check_sizes(promote=self.promote, first=self.first, cheap_rounds=self.cheap_rounds, memory=self.memory)
        check_counts(seeds=self.seeds, neighbours=self.neighbours)
        check_shares(keep=self.keep)

    def init(self, seed: int) -> TwoStepState:
        return TwoStepState(seed, self.inner.init(seed))

    def steady(self) -> tuple[SteadyTwoStep, int]:
        """As a steady-state algorithm: one measurement at a time, new candidates after every `promote` of them."""
        return SteadyTwoStep(self), self.promote

    def ask(self, state: TwoStepState) -> tuple[Batch, TwoStepState]:
        if state.promoting:
            chosen = state.racing if state.rung else self._promoted(state)
            return Batch(tuple(self._promotion(state, e.candidate) for e in chosen)), state
        batch, inner = self.inner.ask(state.inner)
        own = tuple(replace(c, step=self.lower, generation=state.generation) for c in batch.candidates)
        return Batch(own + self._found(state), batch.train_on), replace(state, inner=inner)

    def _promotion(self, state: TwoStepState, candidate: Candidate) -> Candidate:
        goes_on = self.continue_rungs and state.rung > 0
        return replace(candidate, step=self._steps[state.rung], predecessor=candidate.key if goes_on else "")

    def _found(self, state: TwoStepState) -> tuple[Candidate, ...]:
        """What the local search proposes, from the measured front on, with the weights that the measurements so far suggest."""
        count = self.neighbours if state.measured else self.seeds
        if self.local_search is None or state.cheap or not count:
            return ()
        measure = self.local_search.measure
        pairs, _, value = both_measured(state.measured, measure, self.surrogates[measure])
        front = pareto_front(self.problem, state.measured, self.upper)
        rng = stream(state.seed, "local search", state.generation)
        codes = self.local_search.propose(rng, count, codes_of(front), codes_of(pairs), value)
        genomes = dict.fromkeys(self.problem.space.repair(code) for code in codes.tolist())
        at = state.generation
        return tuple(Candidate(f"{at:04d}-s{i:04d}", at, genome, self.lower) for i, genome in enumerate(genomes))

    def tell(self, state: TwoStepState, evaluations: Sequence[Evaluation]) -> TwoStepState:
        told = tuple(sorted(evaluations, key=lambda e: e.candidate.key))
        if state.promoting:
            return self._climbed(state, with_lower(told, (*state.waiting, *state.racing)))
        scored = replace(state, waiting=state.waiting + told, cheap=state.cheap + 1)
        # Without any measurement a long search on the lower step would only find that step's errors.
        if scored.cheap < (self.cheap_rounds if state.measured else 1):
            return self._told(scored)
        scored = replace(scored, promoting=True)
        return scored if self._order(scored, _eligible(scored), 0) else self._finished(scored)

    @property
    def _steps(self) -> tuple[str, ...]:
        return (*self.rungs, self.upper)

    def _climbed(self, state: TwoStepState, told: tuple[Evaluation, ...]) -> TwoStepState:
        """After a rung, whose hopeless candidates are left behind, or after the last one."""
        step = self._steps[state.rung]
        if step == self.upper:
            return self._finished(replace(state, measured=state.measured + told))
        before = [e for e in state.raced if e.candidate.step == step]
        going_on = hopeful(self.problem, self.surrogates, told, before, state.measured, self.upper, self.keep)
        raced = replace(state, raced=state.raced + told, racing=going_on, rung=state.rung + 1)
        return raced if going_on else self._finished(raced)

    def _promoted(self, state: TwoStepState) -> list[Evaluation]:
        """Which waiting candidates to measure next: those expected to add most to what is measured."""
        eligible = _eligible(state)
        count = self.promote if state.measured else min(self.first, self.promote)
        return [eligible[i] for i in self._order(state, eligible, count)[:count]]

    def _finished(self, state: TwoStepState) -> TwoStepState:
        told = self._told(state)
        return replace(told, generation=state.generation + 1, promoting=False, cheap=0, rung=0, racing=())

    def _told(self, state: TwoStepState) -> TwoStepState:
        """Tell the inner algorithm its candidates: measured where there is a measurement, estimated elsewhere."""
        known: dict[Genome, Evaluation] = {e.candidate.genome: e for e in (*state.raced, *state.measured)}
        unmeasured = [e for e in state.waiting if e.candidate.genome not in known]
        settled = [replace(known[e.candidate.genome], candidate=e.candidate) for e in _with(known, state.waiting)]
        told = [*settled, *self._estimated(state, unmeasured)]
        told = [replace(e, candidate=replace(e.candidate, step=self.upper)) for e in told]
        eligible = _eligible(state)
        kept = sorted(self._order(state, eligible, 0)[: self.memory])
        return replace(
            state,
            inner=self.inner.tell(state.inner, told),
            waiting=tuple(eligible[i] for i in kept),
        )

    def _order(self, state: TwoStepState, waiting: Sequence[Evaluation], by_gain: int) -> list[int]:
        """Waiting candidates from the most to the least worth measuring, the first `by_gain` by expected hypervolume gain."""
        self._check_measures(waiting)
        fits = [self._calibrated(state, measure) for measure in self.surrogates]
        problem = self.problem if all(fits) else _without_constraints(self.problem, self.surrogates)
        nodes = [self._estimated(state, waiting, node) for node in range(len(NODES))]
        values, excess = objective_values(problem, nodes[BEST]), violations(problem, nodes[BEST])
        if not (all(fits) and problem.reference):
            return promotion_order(values, excess)
        front = objective_values(problem, feasible(problem, state.measured, self.upper))
        possible = [objective_values(problem, node) for node in nodes]
        return promotion_order(values, excess, front, problem.reference, by_gain, possible)

    def _estimated(self, state: TwoStepState, evaluations: Sequence[Evaluation], node: int = BEST) -> list[Evaluation]:
        """Lower-step evaluations with an estimate (or what else its uncertainty allows, see NODES) for every surrogate; before
        there is any, it is the surrogate."""
        scored = [e for e in evaluations if e.completed]
        columns = {measure: self._estimates(state, scored, measure, node) for measure in self.surrogates}
        extra = [{name: float(column[i]) for name, column in columns.items()} for i in range(len(scored))]
        filled = iter([replace(e, measures={**e.measures, **more}) for e, more in zip(scored, extra, strict=True)])
        return [next(filled) if e.completed else e for e in evaluations]

    def _estimates(self, state: TwoStepState, scored: Sequence[Evaluation], measure: str, node: int) -> np.ndarray:
        surrogate = self.surrogates[measure]
        query = np.array([e.measures.get(surrogate, np.nan) for e in scored])
        pairs, x, y = both_measured(state.measured, measure, surrogate)
        sign = next((o.sign for o in self.problem.objectives if o.measure == measure), 1.0)
        if not scored or not self._calibrated(state, measure):
            return sign * query
        values = self._calibration(measure)(codes_of(pairs), x, sign * y, codes_of(scored), query)
        return np.where(np.isfinite(query), sign * values[:, node], np.nan)

    def _calibrated(self, state: TwoStepState, measure: str) -> bool:
        return (
            len(both_measured(state.measured, measure, self.surrogates[measure])[0])
            >= self._calibration(measure).fewest
        )

    def _calibration(self, measure: str) -> Calibration:
        chosen: Calibration | str = self.calibrations.get(measure, self.calibration)
        found: Calibration = resolve(CALIBRATIONS, chosen)() if isinstance(chosen, str) else chosen
        return found

    def _check_measures(self, waiting: Sequence[Evaluation]) -> None:
        given = set().union(*(e.measures for e in waiting))
        needed = {self.surrogates.get(o.measure, o.measure) for o in self.problem.objectives}
        if waiting and not needed <= given:
            raise ValueError(
                f"{self.lower} must measure every objective or its surrogate, but got measures={sorted(given)} "
                f"without {sorted(needed - given)}; name a surrogate that it measures"
            )


def _eligible(state: TwoStepState) -> list[Evaluation]:
    """The first waiting evaluation of every genome that was scored but never measured."""
    first: dict[Genome, Evaluation] = {}
    measured = {e.candidate.genome for e in (*state.raced, *state.measured)}
    for e in state.waiting:
        if e.completed and e.candidate.genome not in measured:
            first.setdefault(e.candidate.genome, e)
    return list(first.values())


def _with(known: Collection[Genome], evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    return [e for e in evaluations if e.candidate.genome in known]


def _without_constraints(problem: Problem, measures: Iterable[str]) -> Problem:
    return replace(problem, constraints=tuple(c for c in problem.constraints if c.measure not in measures))


@dataclass(frozen=True)
class SteadyTwoStepState:
    """`asked` are the lower-step evaluations of candidates whose measurement is under way; `since` counts the measurements
    since the inner algorithm was last told."""

    rounds: TwoStepState
    asked: tuple[Evaluation, ...] = ()
    since: int = 0


@dataclass(frozen=True)
class SteadyTwoStep:
    """Two-step fitness without a barrier: asked for one candidate, it gives the one expected to add most to what is measured
    and under way. A batch of the lower step comes first, after every `promote` measurements, and when nothing is left."""

    two_step: TwoStep

    def init(self, seed: int) -> SteadyTwoStepState:
        return SteadyTwoStepState(self.two_step.init(seed))

    def ask(self, state: SteadyTwoStepState) -> tuple[Batch, SteadyTwoStepState]:
        if state.rounds.promoting:
            chosen = self._chosen(state)
            if chosen is not None:
                promoted = replace(chosen.candidate, step=self.two_step.upper)
                return Batch((promoted,)), replace(state, asked=(*state.asked, chosen))
            state = self._begun_again(state)
        batch, rounds = self.two_step.ask(state.rounds)
        return batch, replace(state, rounds=rounds)

    def tell(self, state: SteadyTwoStepState, evaluations: Sequence[Evaluation]) -> SteadyTwoStepState:
        scored = [e for e in evaluations if e.candidate.step == self.two_step.lower]
        measured = sorted(
            (e for e in evaluations if e.candidate.step != self.two_step.lower), key=lambda e: e.candidate.key
        )
        if scored:
            state = replace(state, rounds=self.two_step.tell(state.rounds, scored))
        rounds = replace(state.rounds, measured=state.rounds.measured + with_lower(measured, state.asked))
        back = {e.candidate.id for e in measured}
        asked = tuple(e for e in state.asked if e.candidate.id not in back)
        state = SteadyTwoStepState(rounds, asked, state.since + len(measured))
        return self._begun_again(state) if rounds.promoting and state.since >= self.two_step.promote else state

    def _begun_again(self, state: SteadyTwoStepState) -> SteadyTwoStepState:
        return replace(state, rounds=self.two_step._finished(state.rounds), since=0)

    def _chosen(self, state: SteadyTwoStepState) -> Evaluation | None:
        """The first in order that is not under way; what is counts as taken before it."""
        under_way = {e.candidate.genome for e in state.asked}
        pool = [*state.asked, *(e for e in _eligible(state.rounds) if e.candidate.genome not in under_way)]
        order = self.two_step._order(state.rounds, pool, len(state.asked) + 1) if len(pool) > len(state.asked) else []
        return next((pool[i] for i in order if i >= len(state.asked)), None)
