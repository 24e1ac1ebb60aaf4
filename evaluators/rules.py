"""How labels pass through ATen operations: one rule per family of operations.

Operations that only move elements are run on the labels themselves. Element-by-element ones join the labels that meet.
Ones that mix along some dimensions (pooling, softmax, normalisation) pass labels that are equal along these and couple the
others, because the statistics of all of them enter each. Whatever no rule covers pins the units that reach it, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evaluators.call import Call, varying
from evaluators.labels import NONE, Units, held, lean, nothing
from evaluators.products import attention, product

SPLITS = ("split", "split_with_sizes", "chunk", "unbind")

Rule = Callable[[Call, Units], "Tensor | list[Tensor] | None"]


def pass_labels(call: Call, units: Units) -> list[Tensor]:
    """Labels of every output; what no rule covers pins the units that reach it."""
    rule = RULES.get(call.name) or (pointwise if torch.Tag.pointwise in call.func.tags else None)
    passed = rule(call, units) if rule else None
    if passed is None:
        for labels in call.labels:
            if labels is not None:
                units.pin(labels, f"passes through {call.name}, which no channel rule covers")
        return [nothing(t) for t in call.outputs]
    made = passed if isinstance(passed, list) else [passed]
    return [made[i] if i < len(made) and made[i].shape == t.shape else nothing(t) for i, t in enumerate(call.outputs)]


def moved(call: Call, units: Units) -> list[Tensor]:
    """The operation on the labels themselves."""
    result = call.rerun()
    made = [lean(t) for t in (result if isinstance(result, list | tuple) else [result])]
    if call.even and call.name in SPLITS and len({t.shape for t in made}) == 1:
        for other in made[1:]:
            units.join(made[0], other, "stands opposite to channels that cannot be cut")
    return made


def viewed(call: Call, units: Units) -> Tensor:
    """As `moved`, but labels need not lie in memory as the activation does."""
    made = lean(call.first.reshape(call.output.shape))
    at = _split_dim(call.first.shape, call.output.shape)
    if call.even and at is not None:
        units.join(made.narrow(at, 0, 1).expand_as(made), made, "stands opposite to channels that cannot be cut")
    return made


def _split_dim(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Where a view splits one dimension into two, the first of these."""
    for at in range(len(before)):
        if len(after) == len(before) + 1 and (*before[:at], *before[at + 1 :]) == (*after[:at], *after[at + 2 :]):
            return at if before[at] == after[at] * after[at + 1] else None
    return None


def unchanged(call: Call, units: Units) -> Tensor | None:
    return call.first if call.first.shape == call.output.shape else None


def pointwise(call: Call, units: Units) -> Tensor:
    """Labels of operands that meet element by element are joined; an operand that is broadcast along channels must stay,
    and what a constant varies along cannot be cut away from it."""
    shape = call.output.shape
    operands = list(zip(call.inputs, call.labels, strict=True))
    cuttable = [(t, labels) for t, labels in operands if labels is not None and bool((labels != NONE).any())]
    result = nothing(call.output)
    for tensor, labels in sorted(cuttable, key=lambda item: -item[0].numel()):
        if held(result, _repeated(tensor, result)) is None:
            units.pin(labels, "is broadcast along other channels")
            continue
        met = labels.expand(shape)
        if bool((result != NONE).any()):
            units.join(result, met, "is added to or multiplied with channels that cannot be cut")
        result = torch.maximum(result, met) if result.data_ptr() != met.data_ptr() else result
    result = lean(result)
    known = {id(tensor) for tensor, _ in cuttable}
    for tensor in call.inputs:
        if id(tensor) not in known and tensor.numel() > 1 and held(result, varying(tensor, len(shape))) is None:
            call.bind(tensor, result)
    return result


def _repeated(tensor: Tensor, result: Tensor) -> list[int]:
    """Dimensions of the broadcast result along which an operand has one element only."""
    return [d for d in range(result.dim()) if d not in varying(tensor, result.dim()) and result.shape[d] > 1]


def mixing_places(call: Call, units: Units) -> Tensor | None:
    """Pooling, resizing and padding of the last dimensions: every channel by itself."""
    dims = range(2, call.first.dim()) if call.first.dim() > 2 else range(1, call.first.dim())
    lead = held(call.first, dims)
    return None if lead is None else lead.expand(call.output.shape)


def padded(call: Call, units: Units) -> Tensor | None:
    amounts = call.argument("pad")
    dims = [call.first.dim() - 1 - i // 2 for i in range(0, len(amounts), 2) if amounts[i] or amounts[i + 1]]
    lead = held(call.first, dims)
    if lead is None:
        return torch.nn.functional.pad(call.first, amounts, value=NONE)
    return lead.expand(call.output.shape)


def reduced(call: Call, units: Units) -> Tensor:
    """Sums, means, norms over dimensions."""
    dims = _dims(call)
    lead = units.couple(call.first, dims, call.name)
    if lead.dim() != call.output.dim():
        lead = lead[tuple(0 if d in dims else slice(None) for d in range(lead.dim()))]
    return lead


def mixed_along(call: Call, units: Units) -> Tensor:
    """Softmax and the like: every element depends on all along a dimension, and the shape stays."""
    return units.couple(call.first, _dims(call), call.name).expand(call.output.shape)


def _dims(call: Call) -> list[int]:
    total, dim = call.first.dim(), call.argument("dim")
    chosen = range(total) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % total for d in chosen]


def layer_norm(call: Call, units: Units) -> Tensor:
    last = len(call.argument("normalized_shape"))
    dims = range(call.first.dim() - last, call.first.dim())
    return units.couple(call.first, dims, "layer normalisation").expand(call.output.shape)


def pixel_shuffle(call: Call, units: Units) -> Tensor | None:
    """The r^2 channels that become one output channel are cut together."""
    return _shuffled(call, units, call.argument("upscale_factor") ** 2)


def pixel_unshuffle(call: Call, units: Units) -> Tensor | None:
    line = held(call.first, (-1, -2))
    if line is None:
        return None
    return line.repeat_interleave(call.argument("downscale_factor") ** 2, dim=-3).expand(call.output.shape)


def _shuffled(call: Call, units: Units, share: int) -> Tensor | None:
    line = held(call.first, (-1, -2))
    if line is None:
        return None
    sub = line.unflatten(-3, (-1, share))
    lead = units.couple(sub, (sub.dim() - 3,), call.name).squeeze(-3)
    return lead.expand(call.output.shape)


def unfolded(call: Call, units: Units) -> Tensor | None:
    """im2col: (N, C, H, W) -> (N, C k k, places)."""
    line = held(call.first, (-1, -2))
    if line is None:
        return None
    area = call.output.shape[-2] // call.first.shape[-3]
    return line[..., 0].repeat_interleave(area, dim=-2).expand(call.output.shape)


def convolved(call: Call, units: Units) -> None:
    """A convolution or product outside a layer that a plan can speak of."""
    for labels in call.labels:
        if labels is not None:
            units.pin(labels, "feeds a convolution or projection that is no Conv2d or Linear layer")


def _each(rule: Rule, names: str) -> dict[str, Rule]:
    return {name: rule for name in names.split()}


RULES: dict[str, Rule] = {
    **_each(viewed, "view _unsafe_view reshape _reshape_alias"),
    **_each(
        moved,
        "permute transpose t expand unsqueeze squeeze slice select clone split split_with_sizes chunk unbind alias detach "
        "flatten cat stack flip roll repeat contiguous narrow unflatten channel_shuffle native_channel_shuffle lift_fresh "
        "view_as index_select index",
    ),
    **_each(
        unchanged, "_to_copy as_strided as_strided_ native_dropout dropout fake_quantize_per_tensor_affine_cachemask"
    ),
    **_each(pointwise, "hardswish hardswish_ hardtanh hardtanh_ relu6 softplus mish mish_ log_sigmoid_forward prelu"),
    **_each(
        mixing_places,
        "max_pool2d_with_indices max_pool2d avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
        "upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa "
        "_upsample_nearest_exact2d reflection_pad2d replication_pad2d grid_sampler_2d",
    ),
    **_each(padded, "constant_pad_nd pad"),
    **_each(reduced, "sum mean amax amin var std var_mean std_mean linalg_vector_norm norm prod logsumexp"),
    **_each(mixed_along, "_softmax softmax _safe_softmax _log_softmax log_softmax cumsum"),
    **_each(layer_norm, "native_layer_norm layer_norm"),
    **_each(product, "bmm mm addmm"),
    **_each(convolved, "convolution _convolution linear"),
    **_each(
        attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention "
        "_scaled_dot_product_cudnn_attention",
    ),
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "im2col": unfolded,
}
