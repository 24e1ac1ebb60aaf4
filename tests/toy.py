"""A search that takes milliseconds: space, evaluator and algorithm for tests of everything around them.

As a command, `python toy.py RUN_DIR` begins or resumes such a search, slowly enough to be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.local import LocalBackend
from evo.candidates import STEP1, STEP2, Backend, Batch, Candidate, Evaluation, Request
from evo.loop.budget import Budget
from evo.loop.generations import run_search
from evo.loop.observers import SearchObserver
from evo.problem import Objective, Problem
from evo.randomness import stream
from evo.storage.columns import Archive
from evo.storage.manifest import RunInfo
from evo.storage.rows import to_table
from evo.storage.run_directory import RunDirectory
from search_spaces.genome import Genome
from search_spaces.plan import Bits, CompressionPlan

GENES, ALLELES = 6, 4


@dataclass(frozen=True)
class ToySpace:
    """Bit-widths of six layers. Where the first layer has the fewest bits, the last has them too."""

    names: tuple[str, ...] = tuple(f"layer{i}" for i in range(GENES))
    cardinalities: tuple[int, ...] = (ALLELES,) * GENES
    ordinal: tuple[bool, ...] = (True,) * GENES
    digest: str = "toy"

    def sample(self, rng: np.random.Generator) -> Genome:
        return self.repair([int(a) for a in rng.integers(0, ALLELES, GENES)])

    def anchors(self) -> tuple[Genome, ...]:
        return ((ALLELES - 1,) * GENES,)

    def validate(self, genome: Sequence[int]) -> None:
        if self.repair(genome) != tuple(genome):
            raise ValueError(f"a genome must be canonical, but got genome={tuple(genome)}; repair it")

    def repair(self, genome: Sequence[int]) -> Genome:
        return (*genome[:-1], 0 if genome[0] == 0 else genome[-1])

    def decode(self, genome: Genome) -> CompressionPlan:
        return CompressionPlan(bits=tuple(Bits(n, 2 + a) for n, a in zip(self.names, genome, strict=True)))


@dataclass(frozen=True)
class ToyEvaluator:
    """Fails for every plan whose bits add up to `unlucky`. Appends to `calls`, if given, a line per evaluation."""

    calls: Path | None = None
    delay_s: float = 0.0
    unlucky: int = 20

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        time.sleep(self.delay_s)
        if self.calls is not None:
            with open(self.calls, "a") as stream_:
                stream_.write(f"{plan.digest}\n")
        bits = np.array([b.weight for b in plan.bits])
        if bits.sum() == self.unlucky:
            raise ValueError("20 bits are unlucky\nand this line is not part of the reason")
        return {"error": float((1 / bits).sum() + seed / 2**33), "size": float(bits.sum())}


@dataclass(frozen=True)
class DeadlyEvaluator:
    """Kills its process at 22 bits: once if there is a `mark` to leave, else always. Hangs at 23 bits."""

    mark: Path | None = None

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        bits = sum(b.weight for b in plan.bits)
        if bits == 22 and (self.mark is None or not self.mark.exists()):
            if self.mark is not None:
                self.mark.touch()
            os._exit(1)
        if bits == 23:
            time.sleep(600)
        return ToyEvaluator().evaluate(plan, step, seed)


class ToyScorer:
    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        return {"guess": genomes.sum(axis=1) / 7.0}


@dataclass(frozen=True)
class ToyState:
    seed: int
    generation: int = 0
    parents: tuple[Evaluation, ...] = ()
    mean: np.ndarray = field(default_factory=lambda: np.zeros(GENES))


@dataclass(frozen=True)
class ToySearch:
    """Mutants of the best four at both steps; they repeat each other, so some work is done already."""

    problem: Problem
    size: int = 5

    def init(self, seed: int) -> ToyState:
        return ToyState(seed)

    def ask(self, state: ToyState) -> tuple[Batch, ToyState]:
        rng = stream(state.seed, "toy", state.generation)
        genomes = [self._genome(rng, state) for _ in range(self.size)]
        genomes.append(genomes[0])
        return Batch(
            tuple(self._candidate(state, i, g, s) for i, g in enumerate(genomes) for s in (STEP1, STEP2))
        ), state

    def _candidate(self, state: ToyState, i: int, genome: Genome, step: str) -> Candidate:
        parents = tuple(e.candidate.id for e in state.parents)
        return Candidate(f"g{state.generation}-{i}", state.generation, genome, step, parents)

    def _genome(self, rng: np.random.Generator, state: ToyState) -> Genome:
        if not state.parents:
            return self.problem.space.sample(rng)
        genome = list(state.parents[int(rng.integers(len(state.parents)))].candidate.genome)
        genome[int(rng.integers(GENES))] = int(rng.integers(ALLELES))
        return tuple(genome)  # not repaired, on purpose

    def tell(self, state: ToyState, evaluations: Sequence[Evaluation]) -> ToyState:
        measured = [e for e in (*state.parents, *evaluations) if e.completed and e.candidate.step == STEP2]
        best = tuple(sorted(measured, key=lambda e: (e.measures["error"], e.candidate.id)))[:4]
        mean = np.array([e.candidate.genome for e in best], dtype=float).sum(axis=0) / max(1, len(best))
        return replace(state, generation=state.generation + 1, parents=best, mean=mean)


PROBLEM = Problem(ToySpace(), (Objective("error"), Objective("size")))
INFO = RunInfo("toy", ("min error", "min size"), 7, {"error": 1.0})


def begin(path: Path | str) -> RunDirectory:
    """The run in a folder, created where it is none yet."""
    known = Path(path, "run.json").exists()
    return RunDirectory.open(str(path)) if known else RunDirectory.create(str(path), "toy: true\n", INFO)


def search(
    run: RunDirectory,
    backend: Backend | None = None,
    generations: int = 4,
    observers: Sequence[SearchObserver] = (),
    make_evaluator: Callable[[], ToyEvaluator] = ToyEvaluator,
) -> Archive:
    backend = backend or LocalBackend(make_evaluator)
    scorers = {STEP1: ToyScorer()}
    return run_search(PROBLEM, ToySearch(PROBLEM), backend, scorers, run, 7, Budget(generations), observers)


def rows(evaluations: Sequence[Evaluation]) -> list[dict[str, object]]:
    """What has to be equal between equal searches: all but who did it and how long it took."""
    table = to_table(evaluations).drop_columns(["seconds", "worker"])
    return list(table.to_pylist())


def requests(genomes: Sequence[Genome]) -> list[Request]:
    return [Request(f"c{i}@{STEP2}", ToySpace().decode(g), STEP2, seed=i) for i, g in enumerate(genomes)]


def apart(call: Callable[..., Any], *arguments: object) -> Any:
    """The result of a call in a process of its own: Ray reads its settings once per process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    search(begin(folder), generations=8, make_evaluator=lambda: ToyEvaluator(folder / "calls.log", delay_s=0.05))
