"""When a search stops. Limits are checked between rounds, and all of them hold over every session of a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from evo.candidates import Batch, Candidate, Evaluation


@dataclass(frozen=True)
class Budget:
    """None means no limit.

    `generations`: candidates of the generations 0 .. generations - 1 are evaluated. `evaluations`: rows of the archive
    at steps that workers evaluate (in a search that only scores on the driver: all rows), answers from memory included;
    a batch that would exceed it is not begun, unless it is the first. `minutes`: no round begins after them.
    """

    generations: int | None = None
    evaluations: int | None = None
    minutes: float | None = None

    def allows(self, batch: Batch, spent: Spent, seconds: float) -> bool:
        """Whether the batch may begin."""
        generation = min(c.generation for c in batch.candidates)
        if self.generations is not None and generation >= self.generations:
            return False
        if self.minutes is not None and seconds >= 60 * self.minutes:
            return False
        return self.evaluations is None or self._affords(batch, generation, spent)

    def _affords(self, batch: Batch, generation: int, spent: Spent) -> bool:
        limit = math.inf if self.evaluations is None else self.evaluations
        if not spent.measured and generation == 0:
            return True
        if not spent.measured:  # a whole generation went by without a worker: this search only scores
            return spent.rows + len(batch.candidates) <= limit
        return spent.measured + counted(batch.candidates, spent.free) <= limit

    def share(self, generations: int, spent: Spent, seconds: float) -> float:
        """The used share of the tightest limit, in [0, 1]; NaN without limits. `generations` are those finished."""
        measured = spent.measured or (spent.rows if generations else 0)
        used = ((generations, self.generations), (measured, self.evaluations), (seconds / 60, self.minutes))
        return min(1.0, max((done / limit for done, limit in used if limit), default=math.nan))


def counted(candidates: Iterable[Candidate], free: Collection[str]) -> int:
    """Candidates at steps that are not free: those that cost a worker's time."""
    return sum(c.step not in free for c in candidates)


@dataclass(frozen=True)
class Spent:
    """What an archive took: `rows` in all, `measured` at steps that workers evaluate, which are those not in `free`; the
    highest `generation` and `weights_version` in it."""

    free: frozenset[str] = frozenset()
    rows: int = 0
    measured: int = 0
    generation: int = -1
    weights_version: int = 0

    def plus(self, evaluations: Sequence[Evaluation]) -> Spent:
        candidates = [e.candidate for e in evaluations]
        return replace(
            self,
            rows=self.rows + len(candidates),
            measured=self.measured + counted(candidates, self.free),
            generation=max((self.generation, *(c.generation for c in candidates))),
            weights_version=max((self.weights_version, *(e.weights_version for e in evaluations))),
        )
