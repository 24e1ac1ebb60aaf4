"""Stochastic gradient descent that touches only the weights which took part in a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Box = tuple[int, ...]  # the part [:n0, :n1, ...] of a tensor


@dataclass(frozen=True)
class StepRule:
    """SGD with Nesterov momentum; weight decay on weights only, not on biases and normalisation; clip: largest norm of the
    gradient."""

    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 5.0


class ActiveSGD:
    """Momentum and weight decay act on active weights alone: the others keep every bit, and their momentum waits for them.

    With everything active it is `torch.optim.SGD(nesterov=True)`. Plain SGD would shrink weights that no subnet of the step
    uses, and move them by gradients of subnets long gone.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: StepRule) -> None:
        self._parameters, self._rule = dict(parameters), rule
        self.momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """Weights and their momentum: the storage itself, no copies."""
        weights = {f"weight:{name}": p.detach() for name, p in self._parameters.items()}
        return {**weights, **{f"momentum:{name}": m for name, m in self.momentum.items()}}

    def zero_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, active: Mapping[str, Sequence[Box]], rate: float) -> None:
        """Move the parts of every parameter that lie in one of its boxes; a parameter without boxes stays."""
        nn.utils.clip_grad_norm_(self._parameters.values(), self._rule.clip)
        for name, parameter in self._parameters.items():
            if active.get(name) and parameter.grad is not None:
                self._move(name, parameter, parameter.grad, active[name], rate)

    def _move(self, name: str, parameter: nn.Parameter, grad: Tensor, boxes: Sequence[Box], rate: float) -> None:
        rule, momentum = self._rule, self.momentum[name]
        if parameter.dim() > 1:
            grad = grad + rule.weight_decay * parameter
        following = rule.momentum * momentum + grad
        change = grad + rule.momentum * following
        if tuple(parameter.shape) not in boxes:
            mask = union(parameter.shape, boxes).to(parameter.device)
            following = torch.where(mask, following, momentum)
            change = change * mask
        momentum.copy_(following)
        parameter.sub_(rate * change)


@torch.no_grad()
def restore(live: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Write what was stored into the storage of a `state`."""
    for name, tensor in live.items():
        tensor.copy_(stored[name])


def union(shape: Sequence[int], boxes: Sequence[Box]) -> Tensor:
    """Which entries of a tensor lie in any of the boxes: bool of this shape."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    for box in boxes:
        mask[tuple(slice(size) for size in box)] = True
    return mask
