"""Learned distributions over widths and depths (Dong and Yang, NeurIPS 2019, TAS, sections 3.1 and 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.supernets.expected import Distribution, expected_macs
from evo.loop.preferences import Preference
from evo.randomness import stream
from search_spaces.costs import costs
from search_spaces.genes import SkipGene, WidthGene
from search_spaces.network import Network
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan, Skip, Width
from search_spaces.space import CompressionSpace
from search_spaces.stages import Stage, stages

WIDTH, DEPTH = "width:", "depth:"
SPREAD = 0.01  # of the logits at the start: hardly any choice is preferred
ADAM = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class ArchitectureRule:
    """How logits are learned: by Adam with this rate, weight decay and first beta. The temperature falls from `warm` to `cold`
    as a cosine.

    The loss of a step gains cost_weight x +-log E[MACs]: plus where the most probable network is above the band, minus where it
    is below it. The band ends at `target` x the whole network's MACs and begins `tolerance` x the whole network's below that, as
    in the authors' code; with `around`, it reaches from target x (1 - tolerance) to target x (1 + tolerance).
    """

    target: float = 0.5
    tolerance: float = 0.05
    around: bool = False
    cost_weight: float = 2.0
    lr: float = 1e-3
    weight_decay: float = 1e-3
    beta: float = 0.5
    warm: float = 5.0
    cold: float = 0.1

    def temperature(self, done: float) -> float:
        """At this share of the training."""
        return self.cold + 0.5 * (self.warm - self.cold) * (1 + math.cos(math.pi * min(1.0, done)))

    def band(self, whole: float) -> tuple[float, float]:
        """Lowest and highest MACs that cost nothing, of a network with so many."""
        if self.around:
            return self.target * (1 - self.tolerance) * whole, self.target * (1 + self.tolerance) * whole
        return (self.target - self.tolerance) * whole, self.target * whole


@dataclass(frozen=True)
class Drawn:
    """Two widths of every group with their shares, ascending, and the shares of all depths of every stage."""

    widths: Mapping[str, tuple[tuple[int, ...], Tensor]]
    depths: Mapping[str, Tensor]


class Architecture:
    """Logits over the widths of the groups in `groups` and the depths of the space's stages, and Adam, which moves them."""

    def __init__(self, space: CompressionSpace, groups: Sequence[str], rule: ArchitectureRule, seed: int) -> None:
        self._network: Network = space.network
        self.rule = rule
        genes = [gene for gene in space.genes if isinstance(gene, WidthGene)]
        self.widths = {gene.group: gene.kept for gene in genes if gene.group in groups and gene.cardinality > 1}
        skippable = [gene.block for gene in space.genes if isinstance(gene, SkipGene)]
        self.stages: dict[str, Stage] = {stage.blocks[0]: stage for stage in stages(space.network, skippable)}
        sizes = {WIDTH + name: len(kept) for name, kept in self.widths.items()}
        sizes |= {DEPTH + name: len(stage.depths) for name, stage in self.stages.items()}
        rng = stream(seed, "architecture")
        self.logits = {
            name: nn.Parameter(torch.tensor(rng.normal(0, SPREAD, size), dtype=torch.float32))
            for name, size in sizes.items()
        }
        self._adam = torch.optim.Adam(
            self.logits.values(), rule.lr, betas=(rule.beta, 0.999), weight_decay=rule.weight_decay
        )
        for p in self.logits.values():
            self._adam.state[p] = {
                "step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)
            }  # fmt: skip
        whole = costs(self._network, of_plan(self._network, CompressionPlan()))["macs"][0]
        self._low, self._high = rule.band(float(whole))

    def draw(self, rng: np.random.Generator, temperature: float) -> Drawn:
        """Gumbel-softmax: two widths without replacement, in proportion to it; their shares are those of the two alone."""
        widths, depths = {}, {}
        for name, kept in self.widths.items():
            soft = self._soft(WIDTH + name, rng, temperature)
            # The largest of log p + Gumbel noise are a sample without replacement in proportion to p.
            noisy = F.log_softmax(soft.detach().double(), 0).numpy() + rng.gumbel(size=len(kept))
            chosen = sorted(np.argsort(-noisy)[:2].tolist())
            widths[name] = tuple(kept[at] for at in chosen), F.softmax(soft[chosen], 0)
        for name in self.stages:
            depths[name] = F.softmax(self._soft(DEPTH + name, rng, temperature), 0)
        return Drawn(widths, depths)

    def _soft(self, name: str, rng: np.random.Generator, temperature: float) -> Tensor:
        noise = torch.tensor(rng.gumbel(size=len(self.logits[name])), dtype=torch.float32)
        return (F.log_softmax(self.logits[name], 0) + noise) / temperature

    def cost(self) -> Tensor:
        """The term of the loss that keeps the most probable network within the band; 0 inside it."""
        likeliest = float(costs(self._network, of_plan(self._network, self.likeliest()))["macs"][0])
        sign = float(likeliest > self._high) - float(likeliest < self._low)
        return (
            self.rule.cost_weight * sign * expected_macs(self._network, self.distribution()).log()
            if sign
            else torch.zeros(())
        )

    def distribution(self) -> Distribution:
        """The softmax of the logits, without noise."""
        widths = {
            name: (torch.tensor(kept, dtype=torch.float32), F.softmax(self.logits[WIDTH + name], 0))
            for name, kept in self.widths.items()
        }
        present = {}
        for name, stage in self.stages.items():
            chances = F.softmax(self.logits[DEPTH + name], 0)
            for at, block in enumerate(stage.blocks):
                deeper = [depth > at for depth in stage.depths]
                present[block] = chances[torch.tensor(deeper)].sum()
        return Distribution(widths, present)

    def likeliest(self) -> CompressionPlan:
        """The most probable width of every group and depth of every stage."""
        widths, skips = [], []
        for name, kept in self.widths.items():
            widths.append(Width(name, kept[int(self.logits[WIDTH + name].argmax())]))
        for name, stage in self.stages.items():
            depth = stage.depths[int(self.logits[DEPTH + name].argmax())]
            skips += [Skip(block) for block in stage.blocks[depth:]]
        return CompressionPlan(tuple(widths), skips=tuple(skips))

    def step(self, loss: Tensor) -> None:
        """One step of Adam on the gradient of the loss by the logits alone."""
        gradients = torch.autograd.grad(loss + self.cost(), list(self.logits.values()), allow_unused=True)
        for parameter, gradient in zip(self.logits.values(), gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def preferences(self) -> tuple[Preference, ...]:
        """The distribution over alleles of the space's genes."""
        found = []
        for name, kept in self.widths.items():
            chances = F.softmax(self.logits[WIDTH + name].detach(), 0).tolist()
            found.append(
                Preference((f"{WidthGene.kind}:{name}",), tuple((at,) for at in range(len(kept))), tuple(chances))
            )
        for name, stage in self.stages.items():
            chances = F.softmax(self.logits[DEPTH + name].detach(), 0).tolist()
            genes = tuple(f"{SkipGene.kind}:{block}" for block in stage.blocks)
            alleles = tuple(tuple(int(at >= depth) for at in range(len(genes))) for depth in stage.depths)
            found.append(Preference(genes, alleles, tuple(chances)))
        return tuple(found)

    def state(self) -> dict[str, Tensor]:
        logits = {f"logits:{name}": p.detach() for name, p in self.logits.items()}
        return logits | {f"{key}:{name}": self._adam.state[p][key] for name, p in self.logits.items() for key in ADAM}
