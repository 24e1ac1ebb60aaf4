"""Steady-state search: no generations, no barrier. A worker that becomes free gets a new candidate at once.

What is asked depends on what has been told so far, and so on the order in which evaluations finish: unlike the search in
rounds, two runs differ as soon as their workers do. Killed at any moment and run again, it goes on from exactly the
evaluations that it had, none lost and none counted twice: the journal keeps their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from evo.algorithm import AnyAlgorithm
from evo.budget import Budget
from evo.candidates import FINAL, Candidate, Evaluation, Request, StreamingBackend
from evo.checkpoint import decode, encode
from evo.legality import legal
from evo.loop import Clock, Memory, evaluation_of, request_for, standing_of
from evo.manifest import Manifest
from evo.observers import Audience, SearchObserver
from evo.problem import Problem
from evo.storage import RunDirectory


@runtime_checkable
class Steady(Protocol):
    """An algorithm that may be asked again before it was told, and told one evaluation at a time."""

    def steady(self) -> tuple[AnyAlgorithm, int]:
        """The same algorithm, giving one candidate at a time once it has begun; and how many make a generation."""


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
) -> tuple[Evaluation, ...]:
    """Begin or continue the run in `run`; commits after every generation's worth of evaluations, which is also what a
    generation of the budget means. Returns all evaluations in order of completion.
    """
    steady, population = algorithm.steady()
    search = _Search(problem, steady, run, seed, budget, population, Audience(observers))
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
    archive: tuple[Evaluation, ...] = ()
    told: list[Evaluation] = field(default_factory=list)
    _state: Any = None
    _manifest: Manifest = Manifest()  # noqa: RUF009 - frozen
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
        self._memory = Memory(self.problem.space, self.archive)
        self._clock = Clock(self._manifest.seconds)
        self._replay(legal(self.problem.space, self.run.journal(self._manifest)))
        self.audience.on_start(self._standing())

    def _replay(self, journal: Sequence[Evaluation]) -> None:
        """Tell what finished after the commit, in its order; asking as often as had been asked by then."""
        told = {e.candidate.key for e in self.archive}
        for evaluation in (e for e in journal if e.candidate.step != FINAL):
            key, asks = evaluation.candidate.key, 0
            if key in told:  # also in the file of a round whose commit was cut short
                continue
            told.add(key)
            while key not in self._outstanding and asks <= len(journal) and self._ask():
                asks += 1
            if self._outstanding.pop(key, None) is not None:
                self._tell(evaluation)
        self._waiting = deque(self._outstanding.values())

    def more(self, count: int) -> Sequence[Request]:
        requests: list[Request] = []
        while len(requests) < count and (candidate := self._next()) is not None:
            known = self._memory.find(candidate)
            if known is None:
                requests.append(request_for(self.problem.space, self.seed, candidate))
            else:
                self.finish(known)
        return requests

    def candidate(self, key: str) -> Candidate:
        return self._outstanding[key]

    def finish(self, evaluation: Evaluation) -> None:
        self.run.append((evaluation,), self._manifest.rounds + 1, len(self.told))
        del self._outstanding[evaluation.candidate.key]
        self._tell(evaluation)
        self.audience.on_evaluation(evaluation)
        if len(self.told) >= self.population:
            self.commit()

    def commit(self) -> None:
        if not self.told:
            return
        state = encode(SteadyState(self._state, tuple(self._outstanding.values())))
        self._manifest = self.run.commit(self._manifest, tuple(self.told), state, self._clock.seconds)
        self.archive, self.told = (*self.archive, *self.told), []
        self.audience.on_round(self._standing())

    def end(self, status: str) -> None:
        self.audience.on_end(self._standing(), status)

    def _next(self) -> Candidate | None:
        if not self._waiting and self._affordable():
            self._ask()
        return self._waiting.popleft() if self._waiting else None

    def _ask(self) -> bool:
        batch, self._state = self.algorithm.ask(self._state)
        self._outstanding |= {c.key: c for c in batch.candidates}
        self._waiting.extend(batch.candidates)
        return bool(batch.candidates)

    def _tell(self, evaluation: Evaluation) -> None:
        self._state = self.algorithm.tell(self._state, (evaluation,))
        self._memory.add(evaluation)
        self.told.append(evaluation)

    def _affordable(self) -> bool:
        asked = len(self.archive) + len(self.told) + len(self._outstanding)
        generations, evaluations, minutes = self.budget.generations, self.budget.evaluations, self.budget.minutes
        if minutes is not None and self._clock.seconds >= 60 * minutes:
            return False
        limits = [evaluations, None if generations is None else generations * self.population]
        return all(limit is None or asked < limit for limit in limits)

    def _standing(self) -> Any:
        rows = (*self.archive, *self.told)
        budget = replace(self.budget, generations=None) if self.budget.evaluations else self.budget
        standing = standing_of(self._manifest.rounds, rows, rows[-self.population :], self._clock, budget, {})
        return replace(standing, generation=len(rows) // self.population - 1)
