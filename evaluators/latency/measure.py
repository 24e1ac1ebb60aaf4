"""The measurement itself."""

from __future__ import annotations

import getpass
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from torch import Tensor, nn

from evaluators.latency.runtime import Runtime, Session, Target
from evo.registry import RUNTIMES, resolve

WARM_UP = 3
PRECISION, MOST = (
    0.05,
    4,
)  # width of the interval, relative to the ratio, that ends the repeats; at most so many times as many
SHORTEST = 1e-3  # seconds of one repeat; shorter networks run several times in it


@dataclass(frozen=True)
class Latency:
    """Medians over the repeats, in milliseconds per batch. ratio: this network by the baseline, median of the paired repeats;
    low and high bound it with 95 % confidence (order statistics, no assumption on the noise)."""

    milliseconds: float
    baseline_ms: float
    ratio: float
    low: float
    high: float

    @property
    def precise(self) -> bool:
        return self.high - self.low <= PRECISION * self.ratio

    @property
    def measurably_faster(self) -> bool:
        return self.high < 1.0


def latency(model: nn.Module, images: Tensor, target: Target, baseline: nn.Module) -> Latency:
    """Time `model` on `images` (one batch) in the target's runtime, in turns with `baseline` in the same runtime.

    Raises ValueError where the runtime is unknown, not installed, or cannot run the model.
    """
    runtime = runtime_of(target)
    return interleaved(
        runtime.session(model, images, target.threads),
        runtime.session(baseline, images, target.threads),
        target.repeats,
    )


def runtime_of(target: Target) -> Runtime:
    runtime: Runtime = resolve(RUNTIMES, target.runtime)()
    return runtime


def interleaved(session: Session, baseline: Session, repeats: int) -> Latency:
    """At least so many repeats, and up to MOST times as many while the machine is too noisy for the wanted precision."""
    pairs: list[tuple[float, float]] = []
    with alone_on_this_machine():
        runs = _runs_per_repeat(session), _runs_per_repeat(baseline)
        for turn in range(MOST * repeats):
            pairs.append(_pair(session, baseline, runs, turn))
            if turn + 1 >= repeats and _summed_up(pairs).precise:
                break
    return _summed_up(pairs)


def _summed_up(pairs: list[tuple[float, float]]) -> Latency:
    times = np.array(pairs)
    ratios = np.sort(times[:, 0] / times[:, 1])
    rank = _rank(len(pairs))
    own, other = np.median(times, axis=0) * 1e3
    return Latency(float(own), float(other), float(np.median(ratios)), float(ratios[rank]), float(ratios[-1 - rank]))


def alone(session: Session, repeats: int) -> float:
    """Seconds of a session by itself: the least of the repeats, which noise can only raise."""
    session()
    runs = max(1, math.ceil(SHORTEST / 4 / max(session(), 1e-7)))
    return min(sum(session() for _ in range(runs)) / runs for _ in range(repeats))


@contextmanager
def alone_on_this_machine() -> Iterator[None]:
    """At most one probe of this user runs here at a time; a killed one frees its lock."""
    with FileLock(Path(tempfile.gettempdir()) / f"evo-latency-{getpass.getuser()}.lock"):
        yield


def _runs_per_repeat(session: Session) -> int:
    seconds = min(session() for _ in range(WARM_UP))
    return max(1, math.ceil(SHORTEST / max(seconds, 1e-7)))


def _pair(session: Session, baseline: Session, runs: tuple[int, int], turn: int) -> tuple[float, float]:
    """Seconds of both; who goes first changes, so that neither always finds the other's data in the caches."""
    if turn % 2:
        return _mean(session, runs[0]), _mean(baseline, runs[1])
    other = _mean(baseline, runs[1])
    return _mean(session, runs[0]), other


def _mean(session: Session, runs: int) -> float:
    return sum(session() for _ in range(runs)) / runs


def _rank(repeats: int) -> int:
    """Place (from 0) of the order statistic below which the median lies with at most 2.5 % probability."""
    return max(0, math.floor(repeats / 2 - 0.98 * math.sqrt(repeats)))
