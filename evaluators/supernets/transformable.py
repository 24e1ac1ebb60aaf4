"""Transformable Architecture Search (Dong and Yang, NeurIPS 2019): weights and a distribution over architectures, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.compose import replace as put
from evaluators.data import Splits
from evaluators.supernets.architecture import Architecture, Drawn
from evaluators.supernets.elastic import ElasticSupernet
from evaluators.supernets.interpolation import MixedNorm, StageBlock
from evaluators.supernets.optimiser import restore
from evaluators.supernets.schedule import Schedule
from evo.randomness import stream
from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan, Width


class TransformableSupernet:
    """A `Supernet` on elastic weights with norms of their own for every width, whose training draws nothing from a population: a
    step runs the mixture of two widths per group and of all depths per stage that the architecture draws.

    Every convolution works once, at the larger width; each of the two has its own batch normalisation, and what they make is
    interpolated to one width and mixed. Groups without one normalisation per producer are left whole.
    """

    def __init__(self, elastic: ElasticSupernet, architecture: Architecture, criterion: str) -> None:
        self.elastic, self.architecture, self._criterion = elastic, architecture, criterion

    def view(self, plan: CompressionPlan) -> nn.Module:
        return self.elastic.view(plan)

    def extract(self, plan: CompressionPlan) -> nn.Module:
        return self.elastic.extract(plan)

    def train_step(self, plans: Sequence[CompressionPlan], images: Tensor, labels: Tensor, rate: float) -> float:
        return self.elastic.train_step(plans, images, labels, rate)

    def mixture(self, drawn: Drawn) -> nn.Module:
        """The network of all that was drawn, in training mode."""
        view = self.elastic.view(self._plan(drawn, -1)).train()
        for group, (kept, shares) in drawn.widths.items():
            for name in self.elastic.norms(group):
                norm = view.get_submodule(name)
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    affines = [self.elastic.affine(name, {group: units}) for units in kept]
                    put(view, name, MixedNorm(affines, shares, norm.eps))
        for name, stage in self.architecture.stages.items():
            shares = torch.zeros(len(stage.blocks) + 1).index_copy(0, torch.tensor(stage.depths), drawn.depths[name])
            memory: list[Tensor] = []
            for at, block in enumerate(stage.blocks):
                last = at + 1 == len(stage.blocks)
                inner = view.get_submodule(block)
                put(view, block, StageBlock(inner, memory, at == 0, shares if last else None))
        return view

    def weight_step(self, drawn: Drawn, images: Tensor, labels: Tensor, rate: float) -> float:
        """One step of the weights that the mixture uses; the loss, in nats."""
        self.elastic.zero_grad()
        loss = F.cross_entropy(self.mixture(drawn)(images), labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of the supernet must stay finite, but got {loss.item()}; lower supernet.lr"
            )
        loss.backward()
        self.elastic.step([self._plan(drawn, 0), self._plan(drawn, -1)], rate)
        for logits in self.architecture.logits.values():
            logits.grad = None
        return loss.item()

    def architecture_step(self, drawn: Drawn, images: Tensor, labels: Tensor) -> float:
        """One step of the logits; the loss without the cost, in nats."""
        loss = F.cross_entropy(self.mixture(drawn)(images), labels)
        self.architecture.step(loss)
        return loss.item()

    def state(self) -> dict[str, Tensor]:
        return {**self.elastic.state(), **self.architecture.state()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        restore(self.state(), state)

    def _plan(self, drawn: Drawn, at: int) -> CompressionPlan:
        """The network of the smaller (0) or larger (-1) widths."""
        return CompressionPlan(tuple(Width(g, kept[at], self._criterion) for g, (kept, _) in drawn.widths.items()))


@dataclass(frozen=True)
class BilevelSteps:
    """What a step of TAS does: the weights learn from one half of the training images, then the logits from the other (first
    order). Draws and batches are functions of the seed and the step."""

    supernet: TransformableSupernet
    weights: Splits
    architecture: Splits
    schedule: Schedule
    seed: int
    device: torch.device

    def take(self, step: int, population: Sequence[Genome]) -> None:
        images, size = len(self.weights.train), self.schedule.batch
        temperature = self.supernet.architecture.rule.temperature(self.schedule.done(step, images))
        learning = self.weights.training_batch(size, self.seed, step, self.device)
        drawn = self._drawn("weights", step, temperature)
        self.supernet.weight_step(drawn, learning.images, learning.labels, self.schedule.rate(step, images))
        judging = self.architecture.training_batch(size, self.seed, step, self.device)
        drawn = self._drawn("architecture", step, temperature)
        self.supernet.architecture_step(drawn, judging.images, judging.labels)

    def _drawn(self, role: str, step: int, temperature: float) -> Drawn:
        return self.supernet.architecture.draw(stream(self.seed, f"drawn for the {role}", step), temperature)


def halves(splits: Splits, seed: int) -> tuple[Splits, Splits]:
    """The training images in two halves, at random by the seed."""
    order = torch.from_numpy(stream(seed, "halves").permutation(len(splits.train)))
    middle = len(order) // 2
    first, second = (replace(splits, train=splits.train.take(part)) for part in (order[:middle], order[middle:]))
    return first, second
