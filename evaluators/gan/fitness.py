"""The fitness of a compressed generator beside its partner, in the two forms of Shu et al. 2019 (CCG)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLOOR = 0.01  # of the losses in the code's form, which is infinite for the uncompressed pair


@dataclass(frozen=True)
class Weights:
    """gamma weighs the fidelity terms against the size, cycle (lambda) the cycle loss against the discriminator-aware distance;
    removal is the worth of removing all channels in the form of the published code."""

    gamma: float = 1.0
    cycle: float = 10.0
    removal: float = 1.0


def paper_fitness(size: float, distance: float, cycle_l2: float, weights: Weights) -> float:
    """1 / (N + gamma (L_DisA + lambda L_cyc)), with N the share of the generator's parameters that is left, and both losses as
    means over images and elements: a sum over all pixels would only be another gamma and lambda."""
    return 1.0 / (size + weights.gamma * (distance + weights.cycle * cycle_l2))


def code_fitness(removed: float, distance: float, cycle_l1: float, weights: Weights) -> float:
    """The published code's c / sum(L_DisA + 10 L_cyc) + 0.001 #removed, normalised: losses as means instead of sums over the
    validation images, and the share of removed channels, each code counted once instead of once per layer that shares it."""
    return 1.0 / max(FLOOR, distance + weights.cycle * cycle_l1) + weights.removal * removed


def fitness_measures(
    sizes: Mapping[str, float], removed: Mapping[str, float], losses: Mapping[str, float], weights: Weights
) -> dict[str, float]:
    """The forms for every direction, by shares of what is left and of what was removed; `_alone` is without the cycle term, for
    when there is no partner yet. `joint_fitness` is 1 / (the paper's objective of the pair), the same in both directions: both
    sizes, both distances and both cycles, on each of which either generator has an effect."""
    found: dict[str, float] = {}
    joint = paper_fitness(sum(sizes.values()), losses["discriminator_distance"], losses["cycle_l2"], weights)
    for direction, size in sizes.items():
        distance, l1, l2 = (
            losses[f"{name}_{direction}"] for name in ("discriminator_distance", "cycle_l1", "cycle_l2")
        )
        found |= {
            f"paper_fitness_{direction}": paper_fitness(size, distance, l2, weights),
            f"paper_fitness_alone_{direction}": paper_fitness(size, distance, 0.0, weights),
            f"joint_fitness_{direction}": joint,
            f"code_fitness_{direction}": code_fitness(removed[direction], distance, l1, weights),
            f"code_fitness_alone_{direction}": code_fitness(removed[direction], distance, 0.0, weights),
        }
    return found
