"""A part of a network by the names of its modules: what of its description, and of a plan, concerns that part alone."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from search_spaces.network import Network
from search_spaces.plan import CompressionPlan


def part_of_network(network: Network, prefix: str) -> Network:
    """The layers, vectors and blocks under a module (`prefix` ends in a dot), for costs other than the peak of activations.

    Parameters outside layers and vectors are not told apart and left out.
    """
    blocks = tuple(block for block in network.blocks if block.name.startswith(prefix))
    return replace(
        network,
        layers=tuple(layer for layer in network.layers if layer.name.startswith(prefix)),
        vectors=tuple(vector for vector in network.vectors if vector.name.startswith(prefix)),
        products=tuple(product for product in network.products if product.block in {b.name for b in blocks}),
        blocks=blocks,
        activations=(),
        steps=(),
        outputs=(),
        fixed_parameters=0,
        fixed_buffers=0,
    )


def part_of_plan(plan: CompressionPlan, prefix: str) -> CompressionPlan:
    """The decisions on what lies under a module, under their full names."""
    kinds: dict[str, tuple[Any, ...]] = {field.name: getattr(plan, field.name) for field in fields(plan)}
    return CompressionPlan(
        **{name: tuple(d for d in decisions if place_of(d).startswith(prefix)) for name, decisions in kinds.items()}
    )


def place_of(decision: Any) -> str:
    """The channel group, layer or block that a decision of a plan is about: the first field of each kind."""
    return str(getattr(decision, fields(decision)[0].name))
