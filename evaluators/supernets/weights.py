"""Versions of shared weights in a run directory, and the evaluator's way to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load
from torch import Tensor, nn

from evaluators.artifacts import tensor_bytes
from evaluators.supernets.protocol import Supernet
from evo.storage.folder import Folder
from evo.storage.verification import safetensors_fault
from search_spaces.plan import CompressionPlan

STEP, SECONDS, THREAD_SECONDS = "step", "seconds", "thread_seconds"
MODELS = "models"


@dataclass(frozen=True)
class Kept:
    """What training changes, the step that comes next, how many seconds of training lie behind it, and the same times threads."""

    state: Mapping[str, Tensor]
    step: int = 0
    seconds: float = 0.0
    thread_seconds: float = 0.0


@dataclass(frozen=True)
class WeightStore:
    """`models/weights-VVVVVV.safetensors` holds a version, `models/training-VVVVVV.safetensors` one under way. The folder must
    be one that trainer and evaluators share."""

    folder: Folder

    def write(self, version: int, kept: Kept, finished: bool) -> None:
        spent = torch.tensor([kept.seconds, kept.thread_seconds], dtype=torch.float64)
        tensors = {**kept.state, STEP: torch.tensor(kept.step), SECONDS: spent[0], THREAD_SECONDS: spent[1]}
        self.folder.write(_name(version, finished), tensor_bytes(tensors))
        if finished and _name(version, False) in self.folder.names(MODELS):
            self.folder.delete(_name(version, False))

    def read(self, version: int, finished: bool = True) -> Kept | None:
        """None where there is no such file. Raises ValueError where it is damaged."""
        name = _name(version, finished)
        if name not in self.folder.names(MODELS):
            return None
        data = self.folder.read(name)
        fault = safetensors_fault(data)
        if fault:
            raise ValueError(f"shared weights must be intact, but got {fault} in {name}; restore the file from a copy")
        tensors = load(data)
        step, seconds, busy = (tensors.pop(name) for name in (STEP, SECONDS, THREAD_SECONDS))
        return Kept(tensors, int(step), float(seconds), float(busy))

    def versions(self) -> list[int]:
        names = (name.partition("/")[2] for name in self.folder.names(MODELS))
        return [int(name[len("weights-") : -len(".safetensors")]) for name in names if name.startswith("weights-")]

    def delete(self, version: int) -> None:
        self.folder.delete(_name(version, True))


def _name(version: int, finished: bool) -> str:
    return f"{MODELS}/{'weights' if finished else 'training'}-{version:06d}.safetensors"


class SharedWeights:
    """One supernet of an evaluator, filled with the version that is asked for."""

    def __init__(self, supernet: Supernet[CompressionPlan], store: WeightStore) -> None:
        self.supernet, self.store, self._version = supernet, store, 0

    def extract(self, plan: CompressionPlan, version: int) -> nn.Module:
        self.fill(version)
        return self.supernet.extract(plan)

    def fill(self, version: int) -> None:
        """Load a version, unless it is there already."""
        if version != self._version:
            found = self.store.read(version)
            if found is None:
                raise ValueError(
                    f"every worker must see the run directory's shared weights, but got no version {version} in "
                    f"{self.store.folder.root}; use a folder or bucket that all machines share"
                )
            self.supernet.load(found.state)
            self._version = version
