"""What a driver holds while a search of evaluations that do nothing grows: 60 genes, 3 objectives, progress reports.

    python -m benchmarks.driver_memory [--evaluations 100000] [--traced]

Prints bytes per evaluation and MiB at the end, fitted by a line through all rounds after the first fifth. Without --traced that
is resident memory after what can be given back was given back; with it, what Python's and Arrow's allocators hold, exactly.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import tempfile
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.noop import CodeSpace, Instant, begin, problem
from evo.algorithms.nsga import NSGA2
from evo.candidates import STEP2
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import EveryRound, Standing
from evo.views.display import NoDisplay
from evo.views.progress import SearchInfo
from evo.views.reporting import FidelityPair, View, reports

GENES = 60
POPULATION = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--traced", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.traced:
            tracemalloc.start()
        held = watched(Path(folder), arguments.evaluations, POPULATION)
    per_row, last = held.fitted()
    print(json.dumps({"bytes_per_evaluation": per_row, "mib": last / 2**20}))


@dataclass
class Held(EveryRound):
    """Bytes held and rows so far, after each round."""

    bytes: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def act(self, standing: Standing) -> None:
        gc.collect()
        self.bytes.append(traced() if tracemalloc.is_tracing() else resident())
        self.rows.append(len(standing.evaluations))

    def fitted(self) -> tuple[float, float]:
        """Bytes per row after the first fifth, and bytes at the last row."""
        rows, held = np.array(self.rows), np.array(self.bytes)
        late = rows >= rows[-1] / 5
        slope, start = np.polyfit(rows[late], held[late], 1)
        return float(slope), float(start + slope * rows[-1])


def watched(folder: Path, evaluations: int, population: int) -> Held:
    """A search by NSGA-II with progress reports and an agreement between two measures, as the command line runs it."""
    codes, held = problem(CodeSpace(GENES)), Held()
    view = View(codes, pair=FidelityPair(STEP2, "first", STEP2, "second"))
    listeners = reports(view, SearchInfo("benchmark", str(folder)), [NoDisplay()])
    algorithm, budget = NSGA2(codes, population=population), Budget(evaluations=evaluations)
    run_search(codes, algorithm, Instant(), {}, begin(folder, codes), 7, budget, (*listeners, held))
    return held


def traced() -> int:
    return tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()


def resident() -> int:
    """Bytes of this process in memory (Linux), once the allocators have returned what they only keep for later."""
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
