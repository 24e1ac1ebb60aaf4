"""What a runtime offers to be timed: sessions of networks and of single layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Protocol

from torch import Tensor, nn

Session = Callable[[], float]  # runs once and gives seconds by the clock that suits the runtime


@dataclass(frozen=True)
class Target:
    """Where and how latency is measured. `runtime` is a name of `evo list runtimes` or "package.module:callable"."""

    runtime: str = "onnxruntime_int8"
    threads: int = 1
    batch: int = 1
    repeats: int = 20

    @property
    def digest(self) -> str:
        return blake2b(repr(sorted(asdict(self).items())).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class LayerShape:
    """One convolution, or a linear layer with kernel (0, 0), for timing: sizes of its input and of its weight."""

    c_in: int
    c_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    size: tuple[int, int]  # height and width of the input; for a linear layer (positions, 1)
    batch: int


MOVES = ("quantise", "dequantise", "add", "add_integers")


class Runtime(Protocol):
    """`integers` tells whether layers of at most 8-bit weights and activations run on integer kernels there."""

    integers: bool

    def session(self, module: nn.Module, images: Tensor, threads: int) -> Session:
        """A tuned network (not baked) on one batch of images. Raises ValueError where the runtime is not to be had."""
        ...

    def layer(self, shape: LayerShape, integer: bool, threads: int) -> Session: ...

    def move(self, kind: str, elements: int, threads: int) -> Session:
        """What lies between layers, on so many elements: a kind of MOVES, without integer kernels "add" alone."""
        ...
