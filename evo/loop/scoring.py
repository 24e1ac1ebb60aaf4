"""Steps so cheap that the driver scores them, many candidates at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evo.candidates import Candidate, ContinuingScorer, Evaluation, Predecessor, Scorer, Status
from evo.loop.lineage import lineage_of
from evo.storage.columns import Archive
from search_spaces.genome import SearchSpace

DRIVER = "driver"


def scored_here(
    scorers: Mapping[str, Scorer], space: SearchSpace, seed: int, candidates: Sequence[Candidate], archive: Archive
) -> Iterator[tuple[Evaluation, ...]]:
    """Evaluations of those candidates whose step has a scorer, by step and predecessor. The archive holds the predecessors."""
    for step, scorer in scorers.items():
        here = [c for c in candidates if c.step == step]
        for predecessor in dict.fromkeys(c.predecessor for c in here):
            mine = [c for c in here if c.predecessor == predecessor]
            lineage = lineage_of(space, seed, mine[0], archive)
            yield scored(_after(scorer, lineage), mine, np.array([space.repair(c.genome) for c in mine]))


def _after(scorer: Scorer, lineage: Sequence[Predecessor]) -> Scorer:
    if not lineage:
        return scorer
    if not isinstance(scorer, ContinuingScorer):
        raise TypeError(
            f"a scorer of what goes on from tuned weights must have the method after, but got {type(scorer).__name__}; "
            "add it, or let the algorithm name no predecessors at this step"
        )
    return scorer.after(lineage)


def scored(scorer: Scorer, candidates: list[Candidate], genomes: np.ndarray) -> tuple[Evaluation, ...]:
    began = time.perf_counter()
    measures = scorer.score(genomes)
    seconds = (time.perf_counter() - began) / len(candidates)
    for name, values in measures.items():
        if np.shape(values) != (len(candidates),):
            raise ValueError(
                f"a scorer must give one value per genome ({len(candidates)}), but got {name} of shape "
                f"{np.shape(values)}; correct {type(scorer).__name__}"
            )
    rows = zip(*(np.asarray(values, dtype=float).tolist() for values in measures.values()), strict=True)
    return tuple(
        Evaluation(c, Status.COMPLETED, dict(zip(measures, row, strict=True)), seconds=seconds, worker=DRIVER)
        for c, row in zip(candidates, rows, strict=True)
    )
