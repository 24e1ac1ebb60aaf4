"""Switchable batch normalisation: a scale and shift of its own for every width of a layer (Yu et al. 2019, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from evaluators.supernets.layout import Layout
from evaluators.supernets.optimiser import Box

AT = "@"  # scale@12 belongs to the layer when it has 12 channels


def switches(model: nn.Module, layout: Layout, widths: Mapping[str, Sequence[int]]) -> dict[str, nn.Parameter]:
    """Scales and shifts of all narrower widths, beginning as the first entries of the full ones.

    widths: how many units every group may keep. The full width stays with the network's own parameters.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            for leaf in ("weight", "bias"):
                tensor = f"{name}.{leaf}"
                for box in _boxes(layout, tensor, widths):
                    start = module.get_parameter(leaf).detach()[: box[0]].clone()
                    found[switch_name(tensor, box)] = nn.Parameter(start)
    return found


def switch_name(tensor: str, box: Box) -> str:
    return f"{tensor}{AT}{box[0]}"


@torch.no_grad()
def put_switches(module: nn.Module, boxes: Mapping[str, Box], private: Mapping[str, nn.Parameter]) -> None:
    """Copy the scales and shifts of these sizes into a network that was cut to them."""
    present = dict(module.named_parameters())
    for tensor, box in boxes.items():
        name = switch_name(tensor, box) if box else ""
        if name in private and tensor in present:
            present[tensor].copy_(private[name])


def _boxes(layout: Layout, tensor: str, widths: Mapping[str, Sequence[int]]) -> list[Box]:
    sizes = {
        layout.boxes({group: kept})[tensor]
        for _, group, _ in layout.cuts.get(tensor, ())
        for kept in widths.get(group, ())
    }
    return sorted(sizes - {layout.shapes[tensor]})
