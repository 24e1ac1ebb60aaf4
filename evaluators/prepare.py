"""Give a network layers that plans can speak of, with equal outputs: what computes a convolution or attention in its own way is
replaced by plain layers where that can be done exactly, and left as it is where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from evaluators.attention import RelativeAttention, SeparateAttention, WindowAttention, linear
from evaluators.layers import Example, TransposedConv2d, as_arguments, is_plain, layer_of
from evaluators.modes import in_eval_mode, without_fused_attention
from evaluators.probe import share_tensors

EQUAL = 1e-4  # of the largest output

Stand = Callable[[Any], nn.Module]

# By the class alone: a subclass may compute something else.
STANDS_IN: dict[str, Stand] = {
    "torch.nn.modules.activation:MultiheadAttention": SeparateAttention,
    "torch.nn.modules.conv:ConvTranspose2d": TransposedConv2d,
    "torchvision.models.swin_transformer:ShiftedWindowAttention": WindowAttention,
    "torchvision.models.swin_transformer:ShiftedWindowAttentionV2": WindowAttention,
    "torchvision.models.maxvit:RelativePositionalMultiHeadAttention": RelativeAttention,
}


def prepared(model: nn.Module, example: Example) -> nn.Module:
    """The model itself where nothing is to be replaced, else a copy that shares its other tensors; equal outputs in eval mode.

    Replaced are attention modules of torch and torchvision, transposed convolutions, and convolutions and linear layers whose
    weight or padding is computed in the forward pass (weight standardisation, weight norm, "same" padding), at present values.
    """
    own = _own_layers(model)
    if not own and not _stand_ins(model):
        return model
    try:
        expected = _run(model, example)
        inputs = _inputs(model, own, example)
    except Exception:  # whatever the user's forward pass may raise: tracing tells it
        return model
    for attention in (True, False):
        copied = share_tensors(model)
        for parent, name, stand in _stand_ins(copied) if attention else []:
            setattr(parent, name, stand)
        _replace_own_layers(copied, inputs)
        if _gives(copied, example, expected):
            return copied
    return model


def _stand_ins(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and stand-in of every submodule of the table."""
    found = []
    for parent in model.modules():
        for name, child in parent.named_children():
            stand = STANDS_IN.get(f"{type(child).__module__}:{type(child).__qualname__}")
            if stand is not None and _convertible(child):
                found.append((parent, name, stand(child).train(child.training)))
    return found


def _convertible(child: nn.Module) -> bool:
    if isinstance(child, nn.MultiheadAttention):
        return child.bias_k is None and not child.add_zero_attn
    return not is_parametrized(child)


def _own_layers(model: nn.Module) -> list[str]:
    """Convolutions and linear layers that compute in their own way."""
    layers = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return [name for name, module in layers if not is_plain(module) or is_parametrized(module)]


def _inputs(model: nn.Module, names: list[str], example: Example) -> dict[str, Tensor]:
    """The first input of each of these submodules, where it is called."""
    inputs: dict[str, Tensor] = {}
    handles = [model.get_submodule(name).register_forward_pre_hook(_keep_input(inputs, name)) for name in names]
    try:
        _run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _keep_input(inputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            inputs.setdefault(name, args[0])

    return hook


def _replace_own_layers(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    for name, x in inputs.items():
        path, _, leaf = name.rpartition(".")
        module = layer_of(model, name)
        stand = _plain(module, x)
        if stand is not None:
            setattr(model.get_submodule(path), leaf, stand.train(module.training))


class _Convolutions(TorchDispatchMode):
    """Remembers the arguments of every convolution that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _plain(module: nn.Conv2d | nn.Linear, x: Tensor) -> nn.Module | None:
    """A plain layer that does the same to this input, or None where there is none."""
    with _Convolutions() as seen:
        expected = module(x)
    if isinstance(module, nn.Linear):
        stand: nn.Module = linear(module.weight.detach(), None if module.bias is None else module.bias.detach())
    elif len(seen.calls) == 1:
        stand = _plain_convolution(x, *seen.calls[0])
    else:
        return None
    got = stand(x)
    return stand if got.shape == expected.shape and torch.allclose(got, expected, 1e-4, 1e-5) else None


def _plain_convolution(
    x: Tensor,
    inner: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    more: list[int],
    groups: int,
) -> nn.Module:
    """The convolution that ran on `inner`, which is x or x with zeros around it."""
    out, fan_in, *kernel = weight.shape
    conv = nn.Conv2d(fan_in * groups, out, kernel, stride, padding, dilation, groups, bias is not None)  # type: ignore[arg-type]
    conv.weight = nn.Parameter(weight.detach().clone())
    conv.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    down, right = (inner.shape[d] - x.shape[d] for d in (-2, -1))
    if not (down or right):
        return conv
    return nn.Sequential(nn.ZeroPad2d((right // 2, right - right // 2, down // 2, down - down // 2)), conv)


def _run(model: nn.Module, example: Example) -> list[Tensor]:
    with in_eval_mode(model), torch.no_grad(), without_fused_attention():
        return [t for t in tree_flatten(model(*as_arguments(example)))[0] if isinstance(t, Tensor)]


def _gives(model: nn.Module, example: Example, expected: list[Tensor]) -> bool:
    """Whether a network gives these outputs; what stands in may not serve every caller, who may want attention weights."""
    try:
        got = _run(model, example)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return False
    pairs = list(zip(got, expected, strict=False))
    same = len(got) == len(expected) and all(a.shape == b.shape for a, b in pairs)
    return same and all(
        float((a - b).abs().max()) <= EQUAL * float(b.abs().max()) + 1e-9 for a, b in pairs if b.numel()
    )
