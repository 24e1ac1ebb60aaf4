"""Recover accuracy after compression: distillation from the uncompressed network, quantisation-aware where bits are low.

One code for step 2 (a few steps), `final` (epochs) and the training of a baseline (no teacher); only the budget differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.data import Images, Splits, TrainingBatch
from evaluators.distillation import Match, TeacherAnswers, between, outputs_of, soft_target_loss
from evaluators.schedules import Shape, cosine, rate
from evaluators.weight_quantiser import LEARNED

Student = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Budget:
    """How long and how to tune. Loss = (1 - alpha) CE(y, s) + alpha T^2 KL(t || s) at temperature T (Hinton et al. 2015),
    plus features x and attention x the distances between what teacher and student compute on the way.

    epochs: passes over the training split, fractions allowed, 0 for none. lr: peak of the schedule, reached by a linear warm-up
    over the first `warmup` share of the steps. ways: 0, or in how many ways an image is augmented, so that the teacher answers
    each once. bfloat16: the share of the steps, the first ones, in which the student computes in mixed precision.
    """

    epochs: float = 0.0
    batch: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    alpha: float = 0.9
    temperature: float = 4.0
    warmup: float = 0.05
    features: float = 0.0
    attention: float = 0.0
    schedule: Shape = cosine
    ways: int = 0
    bfloat16: float = 0.0


def tune(
    model: nn.Module,
    teacher: nn.Module | None,
    splits: Splits,
    budget: Budget,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
    places: Sequence[Match] = (),
    answers: TeacherAnswers | None = None,
) -> None:
    """Train `model` in place; it ends in eval mode. `places` are where features and attention are compared, `answers` what the
    teacher said before. Raises FloatingPointError when the loss stops being finite."""
    if budget.epochs <= 0:
        return
    steps = max(1, round(budget.epochs * max(1, len(splits.train) // budget.batch)))
    optimiser = torch.optim.SGD(_parameter_groups(model, budget), lr=budget.lr, momentum=budget.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: rate(step, steps, budget.warmup, budget.schedule)
    )
    torch.manual_seed(seed)
    model.train()
    objective = _objective(model, teacher, splits, budget, device, places, answers)
    for step, batch in enumerate(splits.training_batches(budget.batch, budget.epochs, seed, device, budget.ways)):
        student = mixed(model, device) if step < budget.bfloat16 * steps else model
        loss = objective(student, batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the tuning loss must stay finite, but got {loss.item()} at step {step}; lower its lr={budget.lr}"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress((step + 1) / steps)
    model.eval()


def _objective(
    model: nn.Module,
    teacher: nn.Module | None,
    splits: Splits,
    budget: Budget,
    device: torch.device,
    places: Sequence[Match],
    answers: TeacherAnswers | None,
) -> Callable[[Student, TrainingBatch], Tensor]:
    """The loss of a batch, given what answers as the model does."""
    if teacher is None or not any((budget.alpha, budget.features, budget.attention)):
        return lambda student, batch: distillation_loss(student(batch.images), batch.labels, None, budget)
    answered = TeacherAnswers(teacher, splits, device) if answers is None else answers
    weights = {"features": budget.features, "attention": budget.attention}
    if places and any(weights.values()):
        return lambda student, batch: _compared(student, model, teacher, batch, budget, weights, places)
    return lambda student, batch: distillation_loss(student(batch.images), batch.labels, answered.logits(batch), budget)


def mixed(model: nn.Module, device: torch.device) -> Student:
    """What answers as the model does, in mixed precision; logits are float32."""

    def answer(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logits: Tensor = model(images)
        return logits.float()

    return answer


def _compared(
    student: Student,
    model: nn.Module,
    teacher: nn.Module,
    batch: TrainingBatch,
    budget: Budget,
    weights: Mapping[str, float],
    places: Sequence[Match],
) -> Tensor:
    """Distillation with terms between modules; the teacher has to be asked for all of them."""
    names = [match.module for match in places]
    with outputs_of(teacher, names) as wanted, torch.no_grad():
        soft = teacher(batch.images)
    with outputs_of(model, names) as found:
        logits = student(batch.images)
    return distillation_loss(logits, batch.labels, soft, budget) + between(weights, found, wanted, places)


def distillation_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, budget: Budget) -> Tensor:
    """Mean loss over the batch; plain cross-entropy without a teacher."""
    hard = F.cross_entropy(logits, labels)
    if teacher is None or budget.alpha == 0:
        return hard
    return (1 - budget.alpha) * hard + budget.alpha * soft_target_loss(logits, teacher, budget.temperature)


@torch.no_grad()
def classify(
    model: nn.Module, splits: Splits, split: Images, device: torch.device, batch: int = 256
) -> tuple[float, float]:
    """Top-1 error (share, 0..1) and mean cross-entropy (nats) on a split, in eval mode.

    Raises FloatingPointError when the network gives something that is no number.
    """
    model.eval()
    wrong, entropy = 0, 0.0
    for images, labels in splits.batches(split, batch, device):
        logits = model(images)
        wrong += int((logits.argmax(1) != labels).sum())
        entropy += float(F.cross_entropy(logits, labels, reduction="sum"))
    if not math.isfinite(entropy):
        raise FloatingPointError(
            f"the cross-entropy on a split must stay finite, but got {entropy}; lower the lr of the tuning before it"
        )
    return wrong / len(split), entropy / len(split)


def _parameter_groups(model: nn.Module, budget: Budget) -> list[dict[str, object]]:
    """Weight decay on weights only: not on biases, normalisation or what quantisers learn."""
    named = list(_trainable(model))
    decayed = [p for name, p in named if p.dim() > 1 and not name.endswith(LEARNED)]
    free = [p for name, p in named if p.dim() <= 1 or name.endswith(LEARNED)]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": budget.weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
