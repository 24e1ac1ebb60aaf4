"""What a driver holds grows by the rows of its archive and by nothing else."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pyarrow as pa
from toy import begin

from benchmarks.noop import CodeSpace, Instant, problem
from evo.algorithms.nsga import NSGA2
from evo.candidates import STEP2
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import EveryRound, Standing
from evo.storage import columns
from evo.views.display import NoDisplay
from evo.views.progress import SearchInfo
from evo.views.reporting import FidelityPair, View, reports
from search_spaces.genome import genome_digest


class Live(EveryRound):
    """Bytes that Python and Arrow hold after each round."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def act(self, standing: Standing) -> None:
        genome_digest.cache_clear()
        columns._opened.cache_clear()
        gc.collect()
        self.held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())


def test_a_search_holds_no_more_than_its_rows_in_columns(tmp_path: Path) -> None:
    """60 genes and 3 measures are 84 bytes of plain numbers; Evaluation objects would be some 1,500."""
    live, codes = Live(), problem(CodeSpace(genes=60))
    view = View(codes, pair=FidelityPair(STEP2, "first", STEP2, "second"))
    watching = (*reports(view, SearchInfo("flat", ""), [NoDisplay()]), live)
    tracemalloc.start()
    try:
        algorithm = NSGA2(codes, population=columns.PART // 2)
        run_search(codes, algorithm, Instant(), {}, begin(tmp_path), 7, Budget(4), watching)
    finally:
        tracemalloc.stop()
    assert (live.held[3] - live.held[1]) / columns.PART < 150
