"""Evaluations that cost nothing or a fixed time, so that only orchestration is left to measure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evo.candidates import Outcome, Request, Status
from evo.problem import Objective, Problem
from evo.storage.manifest import RunInfo
from evo.storage.run_directory import RunDirectory
from search_spaces.genome import Genome
from search_spaces.plan import Bits, CompressionPlan

MEASURES = ("first", "second", "third")


@dataclass(frozen=True)
class CodeSpace:
    """Weight bit-widths of `genes` layers, every combination legal: a space whose own work is next to nothing."""

    genes: int = 40
    alleles: int = 7
    _records: tuple[tuple[Bits, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        records = tuple(tuple(Bits(n, 2 + a) for a in range(self.alleles)) for n in self.names)
        object.__setattr__(self, "_records", records)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"layer{i}" for i in range(self.genes))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (self.alleles,) * self.genes

    @property
    def ordinal(self) -> tuple[bool, ...]:
        return (True,) * self.genes

    @property
    def digest(self) -> str:
        return f"codes-{self.genes}-{self.alleles}"

    def sample(self, rng: np.random.Generator) -> Genome:
        return tuple(rng.integers(0, self.alleles, self.genes).tolist())

    def anchors(self) -> tuple[Genome, ...]:
        return ((self.alleles - 1,) * self.genes,)

    def validate(self, genome: Sequence[int]) -> None:
        if len(genome) != self.genes or not all(0 <= code < self.alleles for code in genome):
            raise ValueError(
                f"a genome must have {self.genes} alleles below {self.alleles}, but got {genome}; repair it"
            )

    def repair(self, genome: Sequence[int]) -> Genome:
        return tuple(genome)

    def decode(self, genome: Genome) -> CompressionPlan:
        return CompressionPlan(bits=tuple(row[allele] for row, allele in zip(self._records, genome, strict=True)))


@dataclass(frozen=True)
class Sleeper:
    """Three numbers that depend on the seed alone, after `seconds` of sleep."""

    seconds: float = 0.0

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        if self.seconds:
            time.sleep(self.seconds)
        return measures(seed)


class Instant:
    """Answers at once, so that all time goes to the driver."""

    def evaluate(self, work: Sequence[Request]) -> Iterator[Outcome]:
        for request in work:
            yield Outcome(request.key, Status.COMPLETED, measures(request.seed))

    def close(self) -> None: ...


def measures(seed: int) -> dict[str, float]:
    return dict(zip(MEASURES, (seed % 997 / 997, seed // 997 % 991 / 991, seed // 988_027 % 983 / 983), strict=True))


def problem(space: CodeSpace) -> Problem:
    return Problem(space, tuple(map(Objective, MEASURES)), reference=(1.0,) * len(MEASURES))


def begin(folder: Path, problem: Problem) -> RunDirectory:
    """The run in a folder, created where it is none yet."""
    if (folder / "run.json").exists():
        return RunDirectory.open(str(folder))
    return RunDirectory.create(str(folder), "benchmark: true\n", RunInfo(problem.space.digest, ("min first",), 7))


def requests(space: CodeSpace, count: int, start: int = 0) -> list[Request]:
    rng = np.random.default_rng(start)
    return [Request(f"{start + i}@step2", space.decode(space.sample(rng)), "step2", start + i) for i in range(count)]
