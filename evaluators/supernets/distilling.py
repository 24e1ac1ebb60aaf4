"""Gradients of several subnets in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

PlanT = TypeVar("PlanT")


def accumulate(
    view: Callable[[PlanT], nn.Module],
    plans: Sequence[PlanT],
    images: Tensor,
    labels: Tensor,
    in_place: bool,
    label_smoothing: float = 0.0,
) -> float:
    """Add up the gradients of all plans; the mean loss, in nats. The first learns the labels, classes (N,) or probabilities
    (N, classes); with `in_place` the others learn its detached answers instead (Yu and Huang 2019). Raises FloatingPointError
    where a loss is not finite."""
    losses: list[float] = []
    answers: Tensor | None = None
    for plan in plans:
        logits = view(plan).train()(images)
        if answers is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        else:
            loss = F.cross_entropy(logits, answers)
        loss.backward()
        losses.append(loss.item())
        if in_place and answers is None:
            answers = logits.detach().softmax(1)
    mean = sum(losses) / len(losses)
    if not mean < float("inf"):
        raise FloatingPointError(f"the loss of the supernet must stay finite, but got {losses}; lower supernet.lr")
    return mean
