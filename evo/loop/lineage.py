"""From which earlier work a candidate goes on."""

from __future__ import annotations

from evo.candidates import Candidate, Predecessor
from evo.randomness import evaluation_seed
from evo.storage.columns import Archive
from search_spaces.genome import SearchSpace


def lineage_of(space: SearchSpace, seed: int, candidate: Candidate, archive: Archive) -> tuple[Predecessor, ...]:
    """The work of all predecessors of a candidate, oldest first. Raises ValueError for one that is not in the archive or that
    failed."""
    found: list[Predecessor] = []
    wanted = candidate.predecessor
    while wanted:
        evaluation = archive.named(wanted)
        if evaluation is None or not evaluation.completed:
            raise ValueError(
                f"a predecessor must be a completed evaluation of this search, but got {wanted} as one of "
                f"{candidate.key}; correct the algorithm"
            )
        earlier = evaluation.candidate
        genome = space.repair(earlier.genome)
        found.append(Predecessor(space.decode(genome), earlier.step, evaluation_seed(seed, genome, earlier.step)))
        wanted = earlier.predecessor
    return tuple(reversed(found))
