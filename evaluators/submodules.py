"""Record every call of a submodule while a network runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from evaluators.recording import ModuleCall, Recording


class Tracer(Protocol):
    """What runs along: the names of the submodules that run now, outermost first, and what is known of a tensor."""

    recording: Recording
    stack: list[str]

    def labels_of(self, tensor: Tensor) -> Tensor | None: ...

    def activation_of(self, tensor: Tensor) -> int | None: ...


@contextmanager
def submodule_calls(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Record every submodule call, for residual blocks and for telling which operation belongs to which block."""
    handles: list[Any] = []
    starts: dict[str, list[tuple[int, Tensor | None, int | None, bool]]] = defaultdict(list)

    def before(name: str, args: Any, kwargs: Any) -> None:
        x = args[0] if args and isinstance(args[0], Tensor) else None
        labels = None if x is None else tracer.labels_of(x)
        alone = len(args) == 1 and all(value is None or value is False for value in kwargs.values())
        # An in-place operation at the end of the block before may still be under way: labels are values, so keep a copy.
        activation = None if x is None else tracer.activation_of(x)
        starts[name].append((len(tracer.recording.ops), labels, activation, alone))
        tracer.stack.append(name)

    def after(name: str, output: Any) -> None:
        tracer.stack.pop()
        first, in_labels, activation, alone = starts[name].pop()
        if not isinstance(output, Tensor) or in_labels is None or activation is None:
            return
        out_labels, out = tracer.labels_of(output), tracer.activation_of(output)
        if out_labels is not None and out is not None and out_labels.shape == in_labels.shape:
            last = len(tracer.recording.ops)
            tracer.recording.modules.append(
                ModuleCall(name, activation, out, in_labels, out_labels, first, last, alone)
            )

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda m, a, k, n=name: before(n, a, k), with_kwargs=True))
            handles.append(module.register_forward_hook(lambda m, a, o, n=name: after(n, o)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
