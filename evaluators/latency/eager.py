"""PyTorch itself, on CPU and CUDA: networks run in float32 as plain layers, whatever their bits.

The CUDA side waits for the device before it reads the clock; it was written without one at hand and has yet to be run on one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.export.folding import plain
from evaluators.latency.runtime import LayerShape, Session


def pytorch() -> Eager:
    return Eager("cpu")


def cuda() -> Eager:
    if not torch.cuda.is_available():
        raise ValueError("latency.runtime=cuda needs a CUDA device, but got none; choose another runtime")
    return Eager("cuda")


@dataclass(frozen=True)
class Eager:
    device: str
    integers: bool = False

    def session(self, module: nn.Module, images: Tensor, threads: int) -> Session:
        model = plain(module, images.cpu()).model.to(self.device)
        return self._timed(model, images.to(self.device), threads)

    def layer(self, shape: LayerShape, integer: bool, threads: int) -> Session:
        images = torch.rand(shape.batch, shape.c_in, *shape.size)
        if shape.kernel == (0, 0):
            images = torch.rand(shape.batch * shape.size[0], shape.c_in)
            return self._timed(nn.Linear(shape.c_in, shape.c_out).to(self.device), images.to(self.device), threads)
        geometry = (shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups)
        conv = nn.Conv2d(shape.c_in, shape.c_out, *geometry)
        return self._timed(nn.Sequential(conv, nn.ReLU()).to(self.device), images.to(self.device), threads)

    def move(self, kind: str, elements: int, threads: int) -> Session:
        if kind != "add":
            raise ValueError(
                f'PyTorch runs layers in float32, so moves are "add" alone, but got {kind!r}; ask for that'
            )
        return self._timed(_Doubled(), torch.rand(elements, device=self.device), threads)

    def _timed(self, model: nn.Module, images: Tensor, threads: int) -> Session:
        model.eval()
        return on_gpu(model, images) if self.device == "cuda" else on_cpu(model, images, threads)


class _Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


def on_cpu(model: Callable[[Tensor], object], images: Tensor, threads: int) -> Session:
    clock = time.thread_time if threads == 1 else time.perf_counter

    def run() -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with torch.inference_mode():
            began = clock()
            model(images)
            seconds = clock() - began
        torch.set_num_threads(before)
        return seconds

    return run


def on_gpu(model: nn.Module, images: Tensor) -> Session:
    def run() -> float:
        with torch.inference_mode():
            torch.cuda.synchronize()
            began = time.perf_counter()
            model(images)
            torch.cuda.synchronize()
            return time.perf_counter() - began

    return run
