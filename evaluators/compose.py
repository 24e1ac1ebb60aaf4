"""Apply a plan to a network: prune -> decompose -> quantise, each on what the step before left."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.factorise import FACTORISERS
from evaluators.quantise import activation_quantisers, quantise_layer
from evaluators.saliency import Ranking
from evaluators.slicing import slice_channels
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan


def compose(model: nn.Module, trace: Trace, ranking: Ranking, plan: CompressionPlan) -> nn.Module:
    """A new, physically smaller and trainable module; the model is left as it was. Raises ValueError if the plan does not fit."""
    of_plan(trace.network, plan)
    smaller = copy.deepcopy(model).requires_grad_(True)
    slice_channels(smaller, trace, kept_units(ranking, plan))
    for skip in plan.skips:
        replace(smaller, skip.block, nn.Identity())
    skipped = tuple(f"{skip.block}." for skip in plan.skips)
    for factor in plan.factors:
        if not factor.layer.startswith(skipped):
            layer = smaller.get_submodule(factor.layer)
            replace(smaller, factor.layer, FACTORISERS[factor.method](layer, factor.ranks))
    for bits in plan.bits:
        if not bits.layer.startswith(skipped):
            replace(smaller, bits.layer, quantise_layer(smaller.get_submodule(bits.layer), bits))
    return smaller


def kept_units(ranking: Ranking, plan: CompressionPlan) -> dict[str, Sequence[int]]:
    """Units that every mentioned group keeps."""
    by_width = {w.group: ranking.keep(w.group, w.criterion, w.kept) for w in plan.widths}
    return {**by_width, **{mask.group: mask.kept for mask in plan.masks}}


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the submodule called `name`."""
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    if isinstance(parent, nn.Sequential | nn.ModuleList) and leaf.isdigit():
        parent[int(leaf)] = module
    else:
        setattr(parent, leaf, module)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Tensor], ranges: bool) -> None:
    """Batch-norm statistics anew as the cumulative average over the batches, forward passes only (Yu and Huang 2019).

    With `ranges`, the same passes set the ranges of the activation quantisers, which round nothing meanwhile.
    The model ends in eval mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    quantisers = activation_quantisers(model) if ranges else []
    model.eval()
    if not norms and not quantisers:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for quantiser in quantisers:
        quantiser.observing = True
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    for quantiser in quantisers:
        quantiser.freeze()
