"""Work that has been done is not done again: evaluations found by what they evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evo.candidates import Candidate, Evaluation
from evo.digests import DigestMap, as_keys, of_genome, of_text
from evo.storage.columns import EMPTY, Archive
from search_spaces.genome import Genome, SearchSpace

MEMORY = "memory"

Work = tuple[Genome, str, int, str]


class Memory:
    """Answers candidates whose work has been done: the same repaired genome at the same step, weights version and
    predecessor.

    Of what is committed it keeps where in the archive it lies, 12 bytes a row, and all else only until it is committed.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space, self._archive = space, EMPTY
        self._committed = 0
        self._positions: dict[tuple[str, int], DigestMap] = {}
        self._new: dict[str, tuple[Evaluation, Work]] = {}
        self._new_work: dict[Work, Evaluation] = {}

    def work(self, candidate: Candidate, weights_version: int = 0) -> Work:
        return self._space.repair(candidate.genome), candidate.step, weights_version, candidate.predecessor

    def add(self, evaluation: Evaluation) -> None:
        """Remember what is not committed yet."""
        work = self.work(evaluation.candidate, evaluation.weights_version)
        self._new.setdefault(evaluation.candidate.key, (evaluation, work))
        self._new_work.setdefault(work, evaluation)

    def committed(self, archive: Archive, evaluations: Sequence[Evaluation]) -> None:
        """These are the next rows of the archive, whose keys will not be asked for again."""
        found: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for position, evaluation in enumerate(evaluations, self._committed):
            new, work = self._new.pop(evaluation.candidate.key, (None, None))
            if work is not None and self._new_work.get(work) is new:
                del self._new_work[work]
            if evaluation.worker != MEMORY:  # of what it answered itself it knows a place already
                work = work or self.work(evaluation.candidate, evaluation.weights_version)
                found.setdefault(work[1:3], []).append((_digest(work), position))
        self._archive, self._committed = archive, self._committed + len(evaluations)
        for kind, rows in found.items():
            digests, positions = zip(*rows, strict=True)
            known = self._positions.get(kind, DigestMap())
            self._positions[kind] = known.plus(as_keys(digests), np.array(positions, dtype=np.uint32))

    def find(self, candidate: Candidate, weights_version: int = 0) -> Evaluation | None:
        known, _ = self._new.get(candidate.key, (None, None))
        if known is not None and known.candidate == candidate:
            return known
        work = self.work(candidate, weights_version)
        copied = self._archived(work) or self._new_work.get(work)
        return copied and replace(copied, candidate=candidate, seconds=0.0, worker=MEMORY)

    def _archived(self, work: Work) -> Evaluation | None:
        positions = self._positions.get(work[1:3])
        position = None if positions is None else positions.get(_digest(work))
        if position is None:
            return None
        found = self._archive[int(position)]
        return found if self.work(found.candidate, found.weights_version) == work else None


def _digest(work: Work) -> int:
    genome, _, _, predecessor = work
    return of_text(f"{of_genome(genome)} after {predecessor}") if predecessor else of_genome(genome)
