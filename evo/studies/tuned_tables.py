"""Step 1 beyond a tuned network: what codes lose is told by that network's statistics, not by the uncompressed one's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from evaluators.succession import grown
from evo.candidates import Predecessor, Scorer
from evo.studies.classifier import Study, predictor
from evo.studies.step1 import tables_of


@dataclass(frozen=True)
class TunedTables:
    """A `ContinuingScorer`: the tables of the study, and after a lineage those of the network that it ends with.

    The tuned weights come from the run directory, or are made again, equally, where they are not found there: `note` hears of
    that. Channels that this network has lost already cost nothing. Only the newest tables are remembered.
    """

    study: Study
    note: Callable[[str], None] = lambda _: None
    _newest: dict[tuple[Predecessor, ...], Scorer] = field(default_factory=dict, repr=False, compare=False)

    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        return predictor(self.study.tables, self.study.timing).score(genomes)

    def after(self, lineage: Sequence[Predecessor]) -> Scorer:
        line, study = tuple(lineage), self.study
        if line not in self._newest:
            network = self._network(line)
            tables = tables_of(study.config, network, study.trace, study.splits, study.space, study.ranking)
            self._newest.clear()
            self._newest[line] = predictor(tables, study.timing)
        return self._newest[line]

    def _network(self, lineage: tuple[Predecessor, ...]) -> nn.Module:
        """The tuned network in the shape of the uncompressed one."""
        *older, last = lineage
        evaluator, study = self.study.evaluator.after(older), self.study
        if not evaluator.keeps(last.plan, last.step, last.seed):
            self.note(
                "step 1 of the next layer looks at the network that was tuned before, whose weights are not in the run "
                "directory: it is tuned again here (algorithm.params.tuned_statistics=false does without)"
            )
        tuned = evaluator.realise(last.plan, last.step, last.seed)
        return grown(tuned, last.plan, study.teacher, study.trace, study.ranking)
