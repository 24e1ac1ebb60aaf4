"""Steady-state search: no generations, no barrier. A worker that becomes free gets a new candidate at once.

What is asked depends on what has been told so far, and so on the order in which evaluations finish: unlike the search in
rounds, two runs differ as soon as their workers do. Killed at any moment and run again, it goes on from exactly the
evaluations that it had, none lost and none counted twice: the journal keeps their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from evo.algorithm import AnyAlgorithm
from evo.candidates import Candidate, Evaluation, Request, Scorer, StreamingBackend
from evo.loop.budget import Budget, Spent
from evo.loop.generations import Clock, evaluation_of, request_for, standing_of
from evo.loop.memory import Memory
from evo.loop.observers import Audience, SearchObserver, Standing
from evo.loop.scoring import scored_here
from evo.problem import Problem
from evo.storage.checkpoint import decode, encode
from evo.storage.columns import EMPTY, Archive
from evo.storage.legality import legal
from evo.storage.manifest import Manifest
from evo.storage.rows import to_table
from evo.storage.run_directory import RunDirectory

MOST_SCORINGS = 20  # one after the other, until something is worth measuring


@runtime_checkable
class Steady(Protocol):
    """An algorithm that may be asked again before it was told, and told one evaluation at a time."""

    def steady(self) -> tuple[AnyAlgorithm, int]:
        """The same algorithm, giving one candidate at a time once it has begun; and how many make a generation. What it asks
        for at a step that the driver scores may come in batches, and is told before it is asked again."""


@dataclass(frozen=True)
class SteadyState:
    """The algorithm's state and the candidates that were asked for but are not told yet, oldest first."""

    inner: Any
    outstanding: tuple[Candidate, ...] = ()


def run_steady(
    problem: Problem,
    algorithm: Steady,
    backend: StreamingBackend,
    run: RunDirectory,
    seed: int,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    observers: Sequence[SearchObserver] = (),
    scorers: Mapping[str, Scorer] = MappingProxyType({}),
) -> Archive:
    """Begin or continue the run in `run`; commits after every generation's worth of evaluations, which is also what a
    generation of the budget means. Steps in `scorers` are scored here, all others by the backend. Returns all evaluations
    in order of completion.
    """
    steady, population = algorithm.steady()
    search = _Search(problem, steady, run, seed, budget, population, Audience(observers), scorers)
    status = "failed"
    search.open()
    try:
        for outcome in backend.stream(search.more):
            search.finish(evaluation_of(search.candidate(outcome.key), outcome))
        search.commit()
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        search.end(status)
    return search.archive


@dataclass
class _Search:
    problem: Problem
    algorithm: AnyAlgorithm
    run: RunDirectory
    seed: int
    budget: Budget
    population: int
    audience: Audience
    scorers: Mapping[str, Scorer]
    archive: Archive = EMPTY
    told: list[Evaluation] = field(default_factory=list)
    _state: Any = None
    _manifest: Manifest = Manifest()  # noqa: RUF009 - frozen
    _spent: Spent = Spent()  # noqa: RUF009 - frozen
    _fresh: int = 0  # not committed evaluations at steps that cost a worker's time
    _asked: int = 0  # since the commit
    _started: bool = False
    _outstanding: dict[str, Candidate] = field(default_factory=dict)
    _waiting: deque[Candidate] = field(default_factory=deque)

    def open(self) -> None:
        self._manifest = self.run.latest()
        fresh = SteadyState(self.algorithm.init(self.seed))
        stored = self.run.state(self._manifest)
        state = fresh if stored is None else decode(SteadyState, stored, like=fresh)
        self._state = state.inner
        self._outstanding = {c.key: c for c in state.outstanding}
        self.archive = self.run.committed(self._manifest)
        self._memory, self._spent = Memory(self.problem.space), Spent(frozenset(self.scorers))
        for part in self.archive.parts():
            self._memory.committed(self.archive, part)
            self._spent = self._spent.plus(part)
        self._clock = Clock(self._manifest.seconds)
        self._replay(self.run.moments(self._manifest))
        self._started = True
        self.audience.on_start(self._standing())

    def _replay(self, journal: Sequence[tuple[int, Evaluation]]) -> None:
        """Ask and tell again in the order in which it was done after the commit."""
        space = self.problem.space
        for asked, evaluation in journal:
            while self._asked < asked and self._ask():
                pass
            known = self._outstanding.pop(evaluation.candidate.key, None)
            if known is not None and legal(space, (evaluation,)):
                self._tell((evaluation,))
            elif known is not None:
                self._outstanding[known.key] = known
            else:  # a file before it is missing, and what was asked then is not known any more
                self._memory.add(evaluation)
        self._waiting = deque(self._outstanding.values())

    def more(self, count: int) -> Sequence[Request]:
        requests: list[Request] = []
        while len(requests) < count and (candidate := self._next()) is not None:
            known = self._memory.find(candidate)
            if known is None:
                archive = self._rows if candidate.predecessor else self.archive
                requests.append(request_for(self.problem.space, self.seed, candidate, archive=archive))
            else:
                self.finish(known)
        return requests

    def candidate(self, key: str) -> Candidate:
        return self._outstanding[key]

    def finish(self, evaluation: Evaluation) -> None:
        self.run.append((evaluation,), self._manifest.rounds + 1, (len(self.told), self._asked))
        del self._outstanding[evaluation.candidate.key]
        self._tell((evaluation,))
        if self._fresh >= self.population:
            self.commit()

    def commit(self) -> None:
        if not self.told:
            return
        state = encode(SteadyState(self._state, tuple(self._outstanding.values())))
        rows, committed = to_table(self.told, self._manifest.rounds + 1), tuple(self.told)
        self._manifest = self.run.commit(self._manifest, rows, state, self._clock.seconds)
        self.archive, self.told = self.archive.plus(rows), []
        self._fresh = self._asked = 0
        self._memory.committed(self.archive, committed)
        self.audience.on_round(self._standing(committed))

    def end(self, status: str) -> None:
        self.audience.on_end(self._standing(), status)

    def _next(self) -> Candidate | None:
        for _ in range(MOST_SCORINGS):
            if self._waiting or not self._affordable() or not self._ask():
                break
        return self._waiting.popleft() if self._waiting else None

    def _ask(self) -> bool:
        batch, self._state = self.algorithm.ask(self._state)
        self._asked += 1
        here = [c for c in batch.candidates if c.step in self.scorers]
        archive = self._rows if any(c.predecessor for c in here) else self.archive
        for evaluations in scored_here(self.scorers, self.problem.space, self.seed, here, archive):
            self._tell(evaluations)
        work = [c for c in batch.candidates if c.step not in self.scorers]
        self._outstanding |= {c.key: c for c in work}
        self._waiting.extend(work)
        return bool(batch.candidates)

    def _tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._state = self.algorithm.tell(self._state, evaluations)
        for evaluation in evaluations:
            self._memory.add(evaluation)
            if self._started:
                self.audience.on_evaluation(evaluation)
        self.told += evaluations
        before = self._spent
        self._spent = before.plus(evaluations)
        self._fresh += self._spent.measured - before.measured

    def _affordable(self) -> bool:
        asked = self._spent.measured + len(self._outstanding)
        generations, evaluations, minutes = self.budget.generations, self.budget.evaluations, self.budget.minutes
        if minutes is not None and self._clock.seconds >= 60 * minutes:
            return False
        limits = [evaluations, None if generations is None else generations * self.population]
        return all(limit is None or asked < limit for limit in limits)

    @property
    def _rows(self) -> Archive:
        """What is committed, and what was told since then."""
        return self.archive.plus(to_table(self.told)) if self.told else self.archive

    def _standing(self, latest: Sequence[Evaluation] = ()) -> Standing:
        budget = replace(self.budget, generations=None) if self.budget.evaluations else self.budget
        standing = standing_of(self._manifest.rounds, self._rows, latest, self._spent, self._clock, budget)
        return replace(standing, generation=self._spent.measured // self.population - 1)
