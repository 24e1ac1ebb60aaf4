"""Attention of torch and torchvision written so that heads can be cut: projections are layers, and sizes follow from the tensors.

Each class takes over the parameters of the module that it stands in for and gives equal outputs. The originals read the number of
heads off the width of their input, or use the weights of their projections outside a layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SeparateAttention(nn.Module):
    """`nn.MultiheadAttention` with one linear layer each for queries, keys and values. Gives no attention weights."""

    in_proj_bias = None  # tells the transformer layers of torch that their fused path does not apply

    def __init__(self, like: nn.MultiheadAttention) -> None:
        super().__init__()
        if like.in_proj_weight is not None:
            weights = like.in_proj_weight.detach().chunk(3)
        else:
            weights = (like.q_proj_weight.detach(), like.k_proj_weight.detach(), like.v_proj_weight.detach())
        biases = (None,) * 3 if like.in_proj_bias is None else like.in_proj_bias.detach().chunk(3)
        self.q, self.k, self.v = (linear(w, b) for w, b in zip(weights, biases, strict=True))
        out = like.out_proj
        self.out = linear(out.weight.detach(), None if out.bias is None else out.bias.detach())
        self.head_dim, self.batch_first, self.dropout = like.head_dim, like.batch_first, like.dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        if key_padding_mask is not None:
            raise ValueError("attention that is compressed must get no key_padding_mask, but got one; leave it out")
        swap = not self.batch_first and query.dim() == 3
        q, k, v = (
            self._heads(layer(x.transpose(0, 1) if swap else x)) for layer, x in self._projections(query, key, value)
        )
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask, drop, is_causal and attn_mask is None)
        out = self.out(mixed.transpose(-3, -2).flatten(-2))
        return out.transpose(0, 1) if swap else out, None

    def _projections(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[tuple[nn.Module, Tensor], ...]:
        return (self.q, query), (self.k, key), (self.v, value)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)


class WindowAttention(nn.Module):
    """Shifted-window attention of torchvision's Swin transformers, version 1 and 2; input and output (N, H, W, C)."""

    qkv: nn.Linear
    proj: nn.Linear

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.window, self.shift = tuple(like.window_size), tuple(like.shift_size)
        self.head_dim = like.qkv.in_features // like.num_heads
        self.dropouts = (like.attention_dropout, like.dropout)
        self.qkv, self.proj = like.qkv, like.proj
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", like.relative_position_index)
        parameters, buffers, modules = like._parameters, like._buffers, like._modules
        self.register_parameter("relative_position_bias_table", parameters.get("relative_position_bias_table"))
        self.register_parameter("logit_scale", parameters.get("logit_scale"))
        self.register_buffer("relative_coords_table", buffers.get("relative_coords_table"))
        self.cpb_mlp = modules.get("cpb_mlp")
        if self.logit_scale is not None and self.qkv.bias is not None:  # version 2 ignores the bias of the keys
            bias = self.qkv.bias.detach().clone()
            bias[len(bias) // 3 : 2 * len(bias) // 3] = 0
            self.qkv = linear(self.qkv.weight.detach(), bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window[1], 0, -height % self.window[0]))
        size = x.shape[1], x.shape[2]
        shift = [0 if self.window[i] >= size[i] else self.shift[i] for i in (0, 1)]
        if any(shift):
            x = torch.roll(x, shifts=(-shift[0], -shift[1]), dims=(1, 2))
        windows = self._attend(self._partition(x), self._mask(size, shift, x) if any(shift) else None)
        x = self._reverse(F.dropout(self.proj(windows), self.dropouts[1], self.training), size)
        if any(shift):
            x = torch.roll(x, shifts=(shift[0], shift[1]), dims=(1, 2))
        return x[:, :height, :width].contiguous()

    def _partition(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N x windows, places of a window, C)."""
        high, wide = self.window
        tiles = x.unflatten(2, (-1, wide)).unflatten(1, (-1, high))
        return tiles.transpose(2, 3).flatten(0, 2).flatten(1, 2)

    def _reverse(self, windows: Tensor, size: tuple[int, int]) -> Tensor:
        high, wide = self.window
        tiles = windows.unflatten(1, (high, wide)).unflatten(0, (-1, size[0] // high, size[1] // wide))
        return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _attend(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(windows).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.logit_scale is None:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        else:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            scores = scores * self.get_parameter("logit_scale").clamp(max=math.log(100.0)).exp()
        scores = scores + self._bias()
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        weights = F.dropout(scores.softmax(-1), self.dropouts[0], self.training)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _bias(self) -> Tensor:
        places = self.window[0] * self.window[1]
        bias = self._table()[self.relative_position_index].unflatten(0, (places, places)).permute(2, 0, 1)
        return bias if self.cpb_mlp is None else 16 * torch.sigmoid(bias)

    def _table(self) -> Tensor:
        """One row per relative position, one column per head."""
        if isinstance(self.cpb_mlp, nn.Module):
            return self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        return self.get_parameter("relative_position_bias_table")

    def _mask(self, size: tuple[int, int], shift: list[int], like: Tensor) -> Tensor:
        """0 between places of a shifted window that were neighbours, -100 between others, (windows, places, places)."""
        rows, columns = (self._region(size[i], self.window[i], shift[i], like) for i in (0, 1))
        region = self._partition((rows[:, None] * 3 + columns)[None, :, :, None])[..., 0]
        return torch.where(region[:, None] == region[:, :, None], 0.0, -100.0).to(like.dtype)

    @staticmethod
    def _region(size: int, window: int, shift: int, like: Tensor) -> Tensor:
        at = torch.arange(size, device=like.device)
        return (at >= size - window).long() + ((at >= size - shift).long() if shift else 0)


class RelativeAttention(nn.Module):
    """Attention with relative positions of torchvision's MaxViT; input and output (N, groups, places, C)."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.head_dim, self.scale = like.head_dim, like.scale_factor
        self.to_qkv, self.merge = like.to_qkv, like.merge
        self.relative_position_bias_table = like.relative_position_bias_table
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", like.relative_position_index)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2) for part in self.to_qkv(x).chunk(3, dim=-1)
        )
        places = x.shape[-2]
        table = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = table.unflatten(0, (places, places)).permute(2, 0, 1)
        weights = (q @ (k * self.scale).transpose(-2, -1) + bias).softmax(-1)
        return self.merge((weights @ v).transpose(-3, -2).flatten(-2))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer that holds this weight and bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer
