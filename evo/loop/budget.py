"""When a search stops. Limits are checked between rounds, and all of them hold over every session of a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from evo.candidates import Batch, Evaluation


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

    def allows(self, batch: Batch, archive: Sequence[Evaluation], seconds: float, free: Collection[str]) -> bool:
        """Whether the batch may begin. `free` are the steps that are scored on the driver."""
        generation = min(c.generation for c in batch.candidates)
        if self.generations is not None and generation >= self.generations:
            return False
        if self.minutes is not None and seconds >= 60 * self.minutes:
            return False
        return self.evaluations is None or self._affords(batch, generation, archive, free)

    def _affords(self, batch: Batch, generation: int, archive: Sequence[Evaluation], free: Collection[str]) -> bool:
        limit = math.inf if self.evaluations is None else self.evaluations
        spent = counted(archive, free)
        if not spent and generation == 0:
            return True
        if not spent:  # a whole generation went by without a worker: this search only scores
            return len(archive) + len(batch.candidates) <= limit
        return spent + sum(c.step not in free for c in batch.candidates) <= limit

    def share(self, generations: int, archive: Sequence[Evaluation], seconds: float, free: Collection[str]) -> float:
        """The used share of the tightest limit, in [0, 1]; NaN without limits. `generations` are those finished."""
        spent = counted(archive, free) or (len(archive) if generations else 0)
        used = ((generations, self.generations), (spent, self.evaluations), (seconds / 60, self.minutes))
        return min(1.0, max((done / limit for done, limit in used if limit), default=math.nan))


def counted(archive: Sequence[Evaluation], free: Collection[str]) -> int:
    """Evaluations at steps that are not free: those that cost a worker's time."""
    return sum(e.candidate.step not in free for e in archive)
