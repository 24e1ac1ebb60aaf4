"""One ATen operation as it ran, with the labels of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One operation as it ran. labels: those of its tensor arguments in order; None for tensors without. even: parts into which
    channels are split by their number must be cut alike.

    rerun runs it on labels instead of activations; `bind` tells that elements of a constant met these labels.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: Sequence[Tensor]
    labels: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    rerun: Callable[[], Any]
    even: bool
    bind: Callable[[Tensor, Tensor], None]

    @property
    def name(self) -> str:
        return str(self.func._schema.name.split("::")[-1])

    @property
    def output(self) -> Tensor:
        return self.outputs[0]

    @property
    def first(self) -> Tensor:
        """Labels of the first operand that has any."""
        return next(item for item in self.labels if item is not None)

    def argument(self, name: str) -> Any:
        """An argument by the name that the operator's schema gives it, its default where it was left out."""
        for position, declared in enumerate(self.func._schema.arguments):
            if declared.name == name:
                default = declared.default_value if declared.has_default_value() else None
                return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)
        return None


def varying(tensor: Tensor, dims: int) -> list[int]:
    """Dimensions of the broadcast result along which an operand has more than one element."""
    return [dims - tensor.dim() + i for i, size in enumerate(tensor.shape) if size > 1]
