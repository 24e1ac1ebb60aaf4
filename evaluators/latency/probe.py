"""What an evaluator asks: the latency of a built network, measured once per plan and kept beside the run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from evaluators.latency.measure import Latency, interleaved, latency, runtime_of
from evaluators.latency.runtime import Runtime, Session, Target
from evaluators.latency.table import LatencyTable
from search_spaces.network import Network
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan


@dataclass(frozen=True)
class LatencyProbe:
    """baseline: the uncompressed network; images: one batch; baseline_ms: its latency as measured when the search began.

    A plan's latency_ms is its measured ratio to the baseline times baseline_ms, so that measurements of different moments and
    machines can be compared. `folder` keeps them by plan.
    """

    target: Target
    network: Network
    baseline: nn.Module
    images: Tensor
    table: LatencyTable
    baseline_ms: float
    folder: Path | None = None

    def measures(self, plan: CompressionPlan, module: nn.Module) -> dict[str, float]:
        """latency_ms measured, predicted_latency_ms from the table, and the upper end of the measured one's 95 % interval."""
        found = self._known(plan) or self._measured(plan, module)
        return {
            "latency_ms": found.ratio * self.baseline_ms,
            "latency_ms_high": found.high * self.baseline_ms,
            "predicted_latency_ms": float(self.table.predict(self.network, of_plan(self.network, plan))[0]),
        }

    def baseline_measures(self) -> dict[str, float]:
        same = ("latency_ms", "latency_ms_high", "predicted_latency_ms")
        return dict.fromkeys(same, self.baseline_ms)

    def _measured(self, plan: CompressionPlan, module: nn.Module) -> Latency:
        session = self._runtime.session(module, self.images, self.target.threads)
        found = interleaved(session, self._baseline, self.target.repeats)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self._file(plan).with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(asdict(found)))
            os.replace(partial, self._file(plan))
        return found

    def _known(self, plan: CompressionPlan) -> Latency | None:
        if self.folder is None or not self._file(plan).is_file():
            return None
        return Latency(**json.loads(self._file(plan).read_text()))

    def _file(self, plan: CompressionPlan) -> Path:
        return (self.folder or Path()) / f"{plan.digest}-{self.target.digest}.json"

    @cached_property
    def _runtime(self) -> Runtime:
        return runtime_of(self.target)

    @cached_property
    def _baseline(self) -> Session:
        return self._runtime.session(self.baseline, self.images, self.target.threads)


def baseline_latency(model: nn.Module, images: Tensor, target: Target) -> float:
    """Milliseconds per batch of an uncompressed network: the median over as many repeats."""
    return latency(model, images, target, model).milliseconds
