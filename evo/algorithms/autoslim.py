"""AutoSlim's greedy slimming (Yu and Huang 2019, "AutoSlim"): from the widest network, again and again the cheapest step down.

Every round tries each gene one allele lower and takes the one that raises the error least: the error alone, not per saved
multiplication, as in the authors' code. Their error is that of one fixed batch with batch statistics; here it is whatever the
evaluator measures, which recalibrates batch normalisations first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo.algorithms.population import check_shares
from evo.algorithms.proposals import Proposal, numbered
from evo.candidates import STEP2, Batch, Evaluation
from evo.problem import Problem
from search_spaces.genome import Genome


@dataclass(frozen=True)
class SlimState:
    """`current` is the network reached so far, `widest` the first cost of the one it all began with."""

    seed: int
    asked: int = 0
    current: Evaluation | None = None
    widest: float = 0.0
    finished: bool = False


@dataclass(frozen=True)
class AutoSlim:
    """Ends when the second objective, a cost, has fallen to the share `until` of its value at the start, or nothing can be
    narrowed any more. `measure` decides which step is cheapest (the first objective by default; cross_entropy has fewer ties
    than an error). Deterministic."""

    problem: Problem
    measure: str = ""
    until: float = 0.0
    step: str = STEP2

    def __post_init__(self) -> None:
        check_shares(until=self.until)
        if len(self.problem.objectives) < 2:
            names = [o.measure for o in self.problem.objectives]
            raise ValueError(f"autoslim needs an error and a cost, but got objectives={names}; add a cost such as macs")

    def init(self, seed: int) -> SlimState:
        return SlimState(seed)

    def ask(self, state: SlimState) -> tuple[Batch, SlimState]:
        if state.current is None:
            proposals = [Proposal(self.problem.space.anchors()[0])]
        else:
            known = state.current.candidate
            proposals = [Proposal(genome, (known.id,)) for genome in self._narrower(known.genome)]
        batch = Batch(()) if state.finished else numbered(proposals, state.asked, self.step)
        return batch, replace(state, asked=state.asked + 1)

    def tell(self, state: SlimState, evaluations: Sequence[Evaluation]) -> SlimState:
        completed = [e for e in evaluations if e.completed and np.isfinite(self._error(e))]
        if not completed:
            return replace(state, finished=True)
        best = min(completed, key=lambda e: (self._error(e), e.candidate.key))
        cost = float(self.problem.values(best)[1])
        widest = state.widest if state.current is not None else cost
        return replace(state, current=best, widest=widest, finished=cost <= self.until * widest)

    def _narrower(self, genome: Genome) -> list[Genome]:
        """Every genome one step down in one ordinal gene, each once."""
        space = self.problem.space
        found = []
        for at, ordinal in enumerate(space.ordinal):
            if ordinal and genome[at] > 0:
                found.append(space.repair([code - (i == at) for i, code in enumerate(genome)]))
        return [g for g in dict.fromkeys(found) if g != genome]

    def _error(self, evaluation: Evaluation) -> float:
        if not self.measure:
            return float(self.problem.values(evaluation)[0])
        return float(evaluation.measures.get(self.measure, np.nan))
