"""Apply a plan to a network: prune -> decompose -> mask -> quantise, each on what the step before left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from evaluators.channels import Trace, kept_index
from evaluators.compensation import compensated
from evaluators.factorise import factorise
from evaluators.layers import Example, Layer, as_arguments, layer_of, weight_of
from evaluators.masks import compensated_mask, mask_of
from evaluators.moments import InputMoments, collect_moments
from evaluators.part_moments import part_moments
from evaluators.quantise import activation_quantisers, quantise_chain, quantise_layer
from evaluators.saliency import Ranking
from evaluators.slicing import slice_channels
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Mask, Sparse, Width


def compose(
    model: nn.Module,
    trace: Trace,
    ranking: Ranking,
    plan: CompressionPlan,
    moments: Mapping[str, InputMoments] | None = None,
) -> nn.Module:
    """A new, physically smaller and trainable module; the model is left as it was. `moments` are those of the model's layers
    named by `data_aware_layers`. Raises ValueError if the plan does not fit, or needs moments that are not given."""
    of_plan(trace.network, plan)
    smaller = copy.deepcopy(model).requires_grad_(True)
    kept = kept_units(ranking, plan)
    inputs = kept_moments(trace, plan, kept, moments or {})
    slice_channels(smaller, trace, kept)
    for name in compensated_layers(trace, plan):
        _compensate(smaller, model, trace, name, kept, (moments or {})[name])
    for skip in plan.skips:
        replace(smaller, skip.block, nn.Identity())
    skipped = tuple(f"{skip.block}." for skip in plan.skips)
    for factor in plan.factors:
        if not factor.layer.startswith(skipped):
            layer = smaller.get_submodule(factor.layer)
            known = inputs.get(factor.layer) if factor.metric == "inputs" else None
            replace(smaller, factor.layer, factorise(layer, factor.method, factor.ranks, known))
    sparse = {one.layer: one for one in plan.sparse}
    masked = [Bits(name) for name in sparse if name not in {bits.layer for bits in plan.bits}]
    for bits in (*plan.bits, *masked):
        if not bits.layer.startswith(skipped):
            kernel = weight_of(model, bits.layer).shape[2:]
            replace(
                smaller, bits.layer, _rounded(smaller, bits, sparse.get(bits.layer), inputs.get(bits.layer), kernel)
            )
    return smaller


def _rounded(
    model: nn.Module, bits: Bits, sparse: Sparse | None, inputs: InputMoments | None, kernel: Sequence[int]
) -> nn.Module:
    """What stands in for a (possibly factorised) layer, once of this kernel, when it is masked and quantised."""
    module = model.get_submodule(bits.layer)
    if isinstance(module, nn.Sequential):
        known = part_moments(module, kernel, inputs) if inputs is not None and bits.data_aware else {}
        return quantise_chain(module, bits, known)
    mask = None if sparse is None else _mask(layer_of(model, bits.layer), sparse, bits, inputs)
    return quantise_layer(module, bits, inputs, mask)


def _mask(layer: Layer, sparse: Sparse, bits: Bits, inputs: InputMoments | None) -> Tensor:
    """The mask of a layer; with `sparse.compensate` what stays makes up for the rest, unless data-aware rounding will."""
    weight, bias = layer.weight.detach(), layer.bias
    second_moment = None if inputs is None else inputs.second(bias is not None)
    mask = mask_of(weight, sparse.pattern, sparse.criterion, second_moment)
    if sparse.compensate and inputs is not None and second_moment is not None and not bits.data_aware:
        made_up = compensated_mask(weight, mask, second_moment)
        with torch.no_grad():
            layer.weight.copy_(made_up)
            if bias is not None:
                bias.add_(inputs.bias_for((made_up - weight).flatten(1)))
    return mask


def compensated_layers(trace: Trace, plan: CompressionPlan) -> tuple[str, ...]:
    """Layers that make up for input channels that the plan takes from them; depthwise and grouped ones cannot."""
    decisions: tuple[Width | Mask, ...] = (*plan.widths, *plan.masks)
    cut = {decision.group for decision in decisions if decision.compensate}
    skipped = tuple(f"{skip.block}." for skip in plan.skips)
    found = [c for group in trace.network.groups if group.name in cut for c in group.consumers]
    able = {layer.name for layer in trace.network.layers if layer.groups == 1}
    return tuple(dict.fromkeys(c for c in found if c in able and not c.startswith(skipped)))


def _compensate(
    smaller: nn.Module,
    model: nn.Module,
    trace: Trace,
    name: str,
    kept: Mapping[str, Sequence[int]],
    moments: InputMoments,
) -> None:
    """Correct the weight (and bias) of one layer of the cut network, from the uncut layer and the moments of its inputs."""
    cut, whole = layer_of(smaller, name), weight_of(model, name).flatten(1)
    columns, rows = kept_columns(trace, name, kept), kept_rows(trace, name, kept)
    corrected = compensated(whole, columns, moments.second(cut.bias is not None))
    with torch.no_grad():
        cut.weight.copy_(corrected[rows][:, columns].view_as(cut.weight))
        if cut.bias is not None:
            cut.bias.add_(moments.bias_for(corrected - whole)[rows])


def learn_moments(
    known: dict[str, InputMoments],
    model: nn.Module,
    trace: Trace,
    plan: CompressionPlan,
    batches: Callable[[], Iterable[Example]],
) -> dict[str, InputMoments]:
    """Add to `known` the moments that a plan needs and that are missing: the same whichever plan needs them first."""
    missing = [layer for layer in data_aware_layers(trace, plan) if layer not in known]
    if missing:
        known.update(collect_moments(model, missing, batches()))
    return known


def data_aware_layers(trace: Trace, plan: CompressionPlan) -> tuple[str, ...]:
    """Layers for which `compose` needs the moments of their inputs."""
    rounded = [bits.layer for bits in plan.bits if bits.data_aware]
    masked = [sparse.layer for sparse in plan.sparse if sparse.data_aware]
    weighted = [factor.layer for factor in plan.factors if factor.metric == "inputs"]
    return tuple(dict.fromkeys((*rounded, *masked, *weighted, *compensated_layers(trace, plan))))


def kept_moments(
    trace: Trace, plan: CompressionPlan, kept: Mapping[str, Sequence[int]], moments: Mapping[str, InputMoments]
) -> dict[str, InputMoments]:
    """Moments of the inputs that pruning leaves, for every layer that the plan treats with regard to its inputs."""
    wanted = data_aware_layers(trace, plan)
    missing = [layer for layer in wanted if layer not in moments]
    if missing:
        raise ValueError(
            f"a data-aware plan must come with the moments of its layers' inputs, but got none for {missing[0]}; "
            "collect them with evaluators.moments.collect_moments"
        )
    return {layer: moments[layer].kept(kept_columns(trace, layer, kept)) for layer in wanted}


def kept_columns(trace: Trace, layer: str, kept: Mapping[str, Sequence[int]]) -> list[int]:
    """Columns of the layer's weight matrix (outputs, fan-in) that remain."""
    of = trace.network.layer(layer)
    channels = _kept_along(trace, layer, 1, kept, 1 if of.depthwise else of.in_channels // of.groups)
    return [channel * of.kernel_area + place for channel in channels for place in range(of.kernel_area)]


def kept_rows(trace: Trace, layer: str, kept: Mapping[str, Sequence[int]]) -> list[int]:
    """Rows of the layer's weight matrix that remain."""
    return _kept_along(trace, layer, 0, kept, trace.network.layer(layer).out_channels)


def _kept_along(trace: Trace, layer: str, dim: int, kept: Mapping[str, Sequence[int]], size: int) -> list[int]:
    numbers = {group.name: i for i, group in enumerate(trace.network.groups)}
    chosen = {numbers[name]: units for name, units in kept.items()}
    maps = [m for m in trace.maps_of(f"{layer}.weight") if m.dim == dim]
    return kept_index(maps[0], chosen) if maps else list(range(size))


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
def recalibrate(model: nn.Module, batches: Iterable[Example], ranges: bool) -> None:
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
        model(*as_arguments(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    for quantiser in quantisers:
        quantiser.freeze()
