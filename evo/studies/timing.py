"""Latency in a search: timed once when it begins, kept with the run, predicted at step 1, measured by the workers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from evaluators.compression import CompressionEvaluator
from evaluators.export.subject import Written
from evaluators.latency.building import build_table
from evaluators.latency.eager import on_cpu
from evaluators.latency.measure import interleaved, runtime_of
from evaluators.latency.onnx_runtimes import onnxruntime_int8
from evaluators.latency.probe import LatencyProbe, baseline_latency
from evaluators.latency.runtime import Target
from evaluators.latency.table import LatencyTable
from evaluators.loss_tables import LossTables
from evo.config.schema import Config, LatencySection
from search_spaces.network import Network

RUNTIME_OF_FORMAT = {"onnx": "onnxruntime_int8", "pytorch": "pytorch", "torch-export": "pytorch"}
TIMING_FILE = "latency/table.json"


@dataclass(frozen=True)
class Timing:
    """The uncompressed network's latency and the table of layer times, as measured when the search began."""

    baseline_ms: float
    table: LatencyTable

    def to_json(self) -> str:
        return json.dumps({"baseline_ms": self.baseline_ms, "table": json.loads(self.table.to_json())})

    @classmethod
    def from_json(cls, text: str) -> Timing:
        raw = json.loads(text)
        return cls(raw["baseline_ms"], LatencyTable.from_json(json.dumps(raw["table"])))


@dataclass(frozen=True)
class TimedTables:
    """A `Scorer`: everything that step 1 predicts, and the latency."""

    tables: LossTables
    latency: LatencyTable

    def score(self, genomes: np.ndarray) -> dict[str, np.ndarray]:
        space = self.tables.space
        predicted = self.latency.predict(space.network, space.phenotypes(genomes))
        return {**self.tables.score(genomes), "latency_ms": predicted, "predicted_latency_ms": predicted}


def target_of(config: Config) -> Target | None:
    section = config.timed
    return None if section is None else Target(**section.model_dump())


def require_runtime(config: Config) -> None:
    """Raise ValueError where latency is wanted in a runtime that this machine does not have."""
    target = target_of(config)
    if target is not None:
        runtime_of(target)


def timing_of(
    config: Config, folder: Path | None, network: Network, teacher: nn.Module, example: Tensor
) -> Timing | None:
    """What the run directory keeps, else measured now; None where the configuration wants no latency."""
    target = target_of(config)
    if target is None:
        return None
    if folder is not None and (folder / TIMING_FILE).is_file():
        return Timing.from_json((folder / TIMING_FILE).read_text())
    images = _batch(example, target)
    baseline_ms = baseline_latency(teacher, images, target)
    table = build_table(teacher, [layer.name for layer in network.layers], images, target)
    return Timing(baseline_ms, table.scaled_to(network, baseline_ms))


def probe_of(
    config: Config, timing: Timing | None, network: Network, teacher: nn.Module, example: Tensor, models: Path | None
) -> LatencyProbe | None:
    target = target_of(config)
    if target is None or timing is None:
        return None
    images = _batch(example, target)
    return LatencyProbe(target, network, teacher, images, timing.table, timing.baseline_ms, _beside(models))


def latency_of_file(
    config: Config, teacher: nn.Module, example: Tensor, format: str, written: Written
) -> dict[str, str | float]:
    """An exported file's latency beside the uncompressed network's, in the runtime that suits its format."""
    section = (config.timed or LatencySection()).model_copy(update={"runtime": RUNTIME_OF_FORMAT[format]})
    target = Target(**section.model_dump())
    images = _batch(example, target).cpu()
    if format == "onnx":
        session = onnxruntime_int8().file(written.path, teacher, images, target.threads)
    else:
        session = on_cpu(written.run, images, target.threads)
    baseline = runtime_of(target).session(teacher, images, target.threads)
    return {**asdict(target), **asdict(interleaved(session, baseline, target.repeats))}


def kept_in(evaluator: CompressionEvaluator, models: Path) -> CompressionEvaluator:
    """The evaluator that keeps tuned weights, and latencies beside them."""
    probe = evaluator.latency
    kept = None if probe is None else replace(probe, folder=_beside(models))
    return replace(evaluator, artifacts=models, latency=kept)


def _beside(models: Path | None) -> Path | None:
    return None if models is None else models.parent / Path(TIMING_FILE).parent


def _batch(example: Tensor, target: Target) -> Tensor:
    return example.repeat(target.batch, *[1] * (example.dim() - 1))
