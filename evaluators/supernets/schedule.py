"""When shared weights are trained on what: everything is a function of the step's number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo.randomness import stream
from search_spaces.elastic import largest, narrowest
from search_spaces.genome import Genome, SearchSpace
from search_spaces.plan import CompressionPlan, Skip
from search_spaces.space import CompressionSpace


@dataclass(frozen=True)
class Schedule:
    """Version 1 of the weights follows `warm_up` epochs on random subnets and `epochs` on the population; every further version
    `epochs` on the population of its generation (Yang et al. 2020, CARS, section 3.2). Epochs may be fractions.

    The learning rate falls from lr to lr_min as a cosine over `horizon` epochs in all and stays there. A step trains `subnets`
    plans; with the sandwich rule (Yu and Huang 2019) the first two are the largest and the narrowest. layer_drop: probability
    with which every residual block of a drawn plan is left out of a step (Fan et al. 2020). evenly: random plans have every gene
    drawn by itself (Liu et al. 2019, MetaPruning), instead of around a level of their own.
    """

    warm_up: float = 5.0
    epochs: float = 1.0
    horizon: float = 20.0
    batch: int = 64
    lr: float = 0.05
    lr_min: float = 0.001
    subnets: int = 4
    sandwich: bool = True
    layer_drop: float = 0.0
    evenly: bool = False

    def __post_init__(self) -> None:
        fixed = 2 if self.sandwich else 0
        if self.subnets <= fixed:
            raise ValueError(
                f"a step must train drawn subnets beside the {fixed} of the sandwich rule, but got subnets={self.subnets}; "
                f"set it to {fixed + 1} or more"
            )

    def last_step(self, version: int, images: int) -> int:
        """How many steps version `version` has behind it, with so many training images."""
        per_epoch = max(1, images // self.batch)
        return round(self.warm_up * per_epoch) + version * max(1, round(self.epochs * per_epoch))

    def warming(self, step: int, images: int) -> bool:
        return step < self.last_step(0, images)

    def rate(self, step: int, images: int) -> float:
        return self.lr_min + 0.5 * (self.lr - self.lr_min) * (1 + math.cos(math.pi * self.done(step, images)))

    def done(self, step: int, images: int) -> float:
        """The share of the horizon that lies behind this step, 0 to 1."""
        return min(1.0, step / max(1, round(self.horizon * max(1, images // self.batch))))

    def plans(
        self, space: SearchSpace, population: Sequence[Genome], seed: int, step: int
    ) -> tuple[CompressionPlan, ...]:
        """What this step trains: drawn from the population with replacement, or from the whole space without one. Raises
        ValueError for the sandwich rule or layer drop in a space that has no largest network."""
        rng = stream(seed, "subnets", step)
        fixed = [largest(_compressing(space)), narrowest(_compressing(space))] if self.sandwich else []
        count = self.subnets - len(fixed)
        drawn = [population[i] for i in rng.integers(0, len(population), count)] if population else []
        genomes = drawn or [self._random(space, rng) for _ in range(count)]
        dropped = (self._dropped(space, space.decode(genome), rng) for genome in genomes)
        return (*(space.decode(genome) for genome in fixed), *dropped)

    def _random(self, space: SearchSpace, rng: np.random.Generator) -> Genome:
        if not self.evenly:
            return space.sample(rng)
        return space.repair([int(code) for code in rng.integers(0, space.cardinalities)])

    def _dropped(self, space: SearchSpace, plan: CompressionPlan, rng: np.random.Generator) -> CompressionPlan:
        if not self.layer_drop:
            return plan
        present = [block.name for block in _compressing(space).network.blocks if Skip(block.name) not in plan.skips]
        gone = [name for name in present if rng.random() < self.layer_drop]
        return CompressionPlan(plan.widths, skips=(*plan.skips, *map(Skip, gone)), bits=plan.bits)


def _compressing(space: SearchSpace) -> CompressionSpace:
    if not isinstance(space, CompressionSpace):
        raise ValueError(
            f"the sandwich rule and layer drop need a space of compressions, but got {type(space).__name__}; "
            "set supernet.sandwich=false and supernet.layer_drop=0"
        )
    return space
