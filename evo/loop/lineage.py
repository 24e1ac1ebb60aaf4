"""From which earlier work a candidate goes on."""

from __future__ import annotations

from collections.abc import Sequence

from evo.candidates import Candidate, Evaluation, Predecessor
from evo.randomness import evaluation_seed
from search_spaces.genome import SearchSpace


def lineage_of(
    space: SearchSpace, seed: int, candidate: Candidate, archive: Sequence[Evaluation]
) -> tuple[Predecessor, ...]:
    """The work of all predecessors of a candidate, oldest first. Raises ValueError for one that is not in the archive, which
    holds evaluations in the order in which they were told, or that failed."""
    found: list[Predecessor] = []
    wanted, step = _parts(candidate.predecessor)
    for evaluation in reversed(archive) if wanted else ():
        earlier = evaluation.candidate
        if earlier.id == wanted and earlier.step == step and evaluation.completed:
            genome = space.repair(earlier.genome)
            found.append(Predecessor(space.decode(genome), step, evaluation_seed(seed, genome, step)))
            wanted, step = _parts(earlier.predecessor)
            if not wanted:
                break
    if wanted:
        raise ValueError(
            f"a predecessor must be a completed evaluation of this search, but got {wanted}@{step} as one of "
            f"{candidate.key}; correct the algorithm"
        )
    return tuple(reversed(found))


def _parts(key: str) -> tuple[str, str]:
    """Id and step."""
    name, _, step = key.rpartition("@")
    return name, step
