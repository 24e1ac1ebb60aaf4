"""The search loop: ask, evaluate, tell, commit. Killed at any moment and run again, it ends with the same archive."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from evo.algorithm import Algorithm
from evo.candidates import Backend, Batch, Candidate, Evaluation, Outcome, Request, Scorer
from evo.loop.budget import Budget, Spent
from evo.loop.lineage import lineage_of
from evo.loop.memory import Memory
from evo.loop.observers import Audience, SearchObserver, Standing
from evo.loop.preferences import followed
from evo.loop.scoring import scored_here
from evo.loop.shared_weights import Trainer, weights_for
from evo.problem import Problem
from evo.randomness import evaluation_seed
from evo.storage.checkpoint import decode, encode
from evo.storage.columns import EMPTY, Archive
from evo.storage.legality import legal
from evo.storage.manifest import Manifest
from evo.storage.rows import to_table
from evo.storage.run_directory import RunDirectory
from search_spaces.genome import SearchSpace

# A crash may lose finished evaluations that together took less than this, or fewer than so many: each write costs milliseconds.
JOURNAL_S = 0.05
JOURNAL_ROWS = 5000
RARELY = 100_000  # new objects between two looks for garbage


def run_search(
    problem: Problem,
    algorithm: Algorithm[Any],
    backend: Backend,
    scorers: Mapping[str, Scorer],
    run: RunDirectory,
    seed: int,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    observers: Sequence[SearchObserver] = (),
    trainer: Trainer | None = None,
    overlap: bool = False,
) -> Archive:
    """Begin or continue the run in `run` until the budget is spent or the algorithm asks for nothing more.

    Steps in `scorers` are scored here on the driver, all others by the backend. Returns all evaluations by round, in
    the order in which the algorithm asked for them; but for `seconds` and `worker` they depend on the arguments alone, not
    on workers, order of completion or interruptions. With a trainer, shared weights are trained before a batch that asks for
    it is evaluated (with `overlap`, the next version beside it), and rows carry their version. The caller closes backend and
    trainer. Raises StorageError when the run directory fails for good, and lets KeyboardInterrupt through; both leave a
    directory that can be resumed.
    """
    manifest = run.latest()
    state = stored_state(run, manifest, algorithm.init(seed))
    archive = run.committed(manifest)
    memory, spent = Memory(problem.space), Spent(frozenset(scorers))
    for part in archive.parts():
        memory.committed(archive, part)
        spent = spent.plus(part)
    for evaluation in legal(problem.space, run.journal(manifest)):
        memory.add(evaluation)
    # A row is a dozen objects without cycles: looking through those of a round at Python's pace is a fifth of the work.
    collections = gc.get_threshold()
    gc.set_threshold(max(RARELY, collections[0]), *collections[1:])
    clock, audience, status = Clock(manifest.seconds), Audience(observers), "failed"
    standing = standing_of(manifest.rounds, archive, (), spent, clock, budget)
    audience.on_start(standing)
    try:
        while True:
            batch, asked = algorithm.ask(state)
            if not batch.candidates or not budget.allows(batch, spent, clock.seconds):
                break
            version, trained = weights_for(trainer, batch, spent.weights_version, overlap)
            batch = followed(algorithm, asked, batch, trainer, version)
            number, space = manifest.rounds + 1, problem.space
            work = Round(number, space, backend, scorers, run, seed, memory, audience, version, archive)
            evaluations = work.evaluate(batch)
            trained()
            state = algorithm.tell(asked, evaluations)
            rows = to_table(evaluations, manifest.rounds + 1)
            manifest = run.commit(manifest, rows, encode(state), clock.seconds)
            archive, spent = archive.plus(rows), spent.plus(evaluations)
            memory.committed(archive, evaluations)
            standing = standing_of(manifest.rounds, archive, evaluations, spent, clock, budget)
            audience.on_round(standing)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        gc.set_threshold(*collections)
        audience.on_end(standing, status)
    return archive


def stored_state(run: RunDirectory, manifest: Manifest, fresh: Any) -> Any:
    stored = run.state(manifest)
    return fresh if stored is None else decode(type(fresh), stored, like=fresh)


class Clock:
    """Seconds over all sessions of a run."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def standing_of(
    rounds: int, archive: Archive, latest: Sequence[Evaluation], spent: Spent, clock: Clock, budget: Budget
) -> Standing:
    # The generation is the highest so far: a round may also promote candidates of older ones.
    done = budget.share(spent.generation + 1, spent, clock.seconds)
    return Standing(rounds, spent.generation, clock.seconds, archive, tuple(latest), done)


class _Journal:
    """Writes evaluations as they arrive, those that took next to no time several at once; the commit writes the rest."""

    def __init__(self, run: RunDirectory, round_number: int) -> None:
        self._run, self._round = run, round_number
        self._rows: list[Evaluation] = []
        self._seconds = 0.0

    def add(self, evaluations: Sequence[Evaluation]) -> None:
        self._rows += evaluations
        self._seconds += sum(e.seconds for e in evaluations)
        if self._seconds >= JOURNAL_S or len(self._rows) >= JOURNAL_ROWS:
            self._run.append(self._rows, self._round)
            self._rows, self._seconds = [], 0.0


@dataclass(frozen=True)
class Round:
    """One batch under way."""

    number: int
    space: SearchSpace
    backend: Backend
    scorers: Mapping[str, Scorer]
    run: RunDirectory
    seed: int
    memory: Memory
    audience: Audience
    version: int = 0
    archive: Archive = EMPTY

    def evaluate(self, batch: Batch) -> tuple[Evaluation, ...]:
        """The evaluations of all candidates, in the batch's order."""
        known = {c.key: found for c in batch.candidates if (found := self._known(c)) is not None}
        new: dict[Any, Candidate] = {}
        for candidate in batch.candidates:
            if candidate.key not in known:
                new.setdefault(self.memory.work(candidate, self._version(candidate)), candidate)
        arrived, journal = set(), _Journal(self.run, self.number)
        for evaluations in chain(self._score(list(new.values())), self._measure(list(new.values()))):
            journal.add(evaluations)
            for evaluation in evaluations:
                self.memory.add(evaluation)
                self.audience.on_evaluation(evaluation)
                arrived.add(evaluation.candidate.key)
        answers = tuple(known.get(c.key) or self._answer(c) for c in batch.candidates)
        for evaluation in answers:
            if evaluation.candidate.key not in arrived:
                self.audience.on_evaluation(evaluation)
        return answers

    def _answer(self, candidate: Candidate) -> Evaluation:
        found = self._known(candidate)
        if found is None:
            raise RuntimeError(f"a backend must answer every request, but got none for key={candidate.key}; correct it")
        return found

    def _known(self, candidate: Candidate) -> Evaluation | None:
        return self.memory.find(candidate, self._version(candidate))

    def _version(self, candidate: Candidate) -> int:
        """What the driver scores knows nothing of shared weights."""
        return 0 if candidate.step in self.scorers else self.version

    def _score(self, candidates: list[Candidate]) -> Iterator[tuple[Evaluation, ...]]:
        return scored_here(self.scorers, self.space, self.seed, candidates, self.archive)

    def _measure(self, candidates: list[Candidate]) -> Iterator[tuple[Evaluation, ...]]:
        pending = {c.key: c for c in candidates if c.step not in self.scorers}
        if not pending:
            return
        asked = pending.values()
        requests = [request_for(self.space, self.seed, c, self.version, self.archive) for c in asked]
        for outcome in self.backend.evaluate(requests):
            yield (evaluation_of(pending[outcome.key], outcome, self.version),)


def request_for(
    space: SearchSpace,
    seed: int,
    candidate: Candidate,
    version: int = 0,
    archive: Archive = EMPTY,
) -> Request:
    """The work that a candidate stands for; its seed is a function of the run's seed, the step and the genome. The archive holds
    its predecessors."""
    genome = space.repair(candidate.genome)
    own_seed = evaluation_seed(seed, genome, candidate.step)
    lineage = lineage_of(space, seed, candidate, archive)
    return Request(candidate.key, space.decode(genome), candidate.step, own_seed, version, lineage)


def evaluation_of(candidate: Candidate, outcome: Outcome, version: int = 0) -> Evaluation:
    return Evaluation(
        candidate,
        outcome.status,
        {
            sys.intern(name): value for name, value in outcome.measures.items()
        },  # what came from afar has names of its own
        outcome.reason,
        version,
        seconds=outcome.seconds,
        worker=sys.intern(outcome.worker),
    )
