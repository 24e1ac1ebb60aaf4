"""Small networks with random weights, one per rule of the tracer, and which channel groups they must have."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2


class Encoder(nn.Module):
    """A block of a vision transformer around any attention of places (N, places, C); its stream is normalised, so it stays."""

    def __init__(self, attention: nn.Module, width: int = 24, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        self.before, self.attention, self.between = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.of_torch = isinstance(attention, nn.MultiheadAttention)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        y = self.before(x)
        x = x + (self.attention(y, y, y, need_weights=False)[0] if self.of_torch else self.attention(y))
        x = x + self.scale * self.mlp(self.between(x))
        return self.head(x[:, 0])


class Fused(nn.Module):
    """One projection for queries, keys and values, and a number of heads that the forward pass reads, as in timm."""

    def __init__(self, heads: int = 4, size: int = 6) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, size, heads * size
        self.qkv, self.proj = nn.Linear(24, 3 * heads * size), nn.Linear(heads * size, 24)
        self.q_norm, self.temperature = nn.LayerNorm(size), nn.Parameter(torch.rand(heads, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        n, places, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, places, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (self.q_norm(q) @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, places, self.attn_dim))


class Caching(nn.Module):
    """Keeps what eval mode made of a table of positional biases, one column per head, as in LevIT."""

    def __init__(self, heads: int = 4, size: int = 6) -> None:
        super().__init__()
        self.num_heads, self.size = heads, size
        self.qkv, self.proj = nn.Linear(24, 3 * heads * size), nn.Linear(heads * size, 24)
        self.biases, self.kept = nn.Parameter(torch.randn(heads, 17)), dict[str, Tensor]()

    def train(self, mode: bool = True) -> Caching:
        self.kept = {} if mode else self.kept
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2).split([self.size] * 3, dim=3)
        bias = self.biases[:, None] if self.training else self.kept.setdefault("bias", self.biases[:, None])
        return self.proj(((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Windows(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm, self.attention = nn.Conv2d(3, 24, 2, 2), nn.LayerNorm(24), attention
        self.head = nn.Linear(24, 5)
        self.grouped = isinstance(attention, RelativePositionalMultiHeadAttention)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        if self.grouped:
            x = x.flatten(1, 2).unflatten(1, (4, 16))
            return self.head((x + self.attention(self.norm(x))).mean((1, 2)))
        return self.head((x + self.attention(self.norm(x))).mean((1, 2)))


class Normalised(nn.Module):
    """Group normalisation, scales per channel and per place, a transposed convolution, instance normalisation, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.scale, self.places = nn.Parameter(torch.rand(12, 1, 1) + 0.5), nn.Parameter(torch.rand(8, 8) + 0.5)
        self.second = nn.Conv2d(16, 12, 3, 2, padding_mode="reflect", padding=1)
        self.up, self.instance = nn.ConvTranspose2d(12, 8, 3, 2, 1, 1), nn.InstanceNorm2d(8, affine=True)
        self.fine, self.last = nn.Conv2d(24, 16, 1), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.norm(self.first(x)).relu()
        deep = self.second(wide) * self.scale * self.places
        both = torch.cat([self.instance(self.up(deep)), wide], dim=1)
        return self.last(F.pixel_shuffle(self.fine(both), 2)).mean((2, 3))


class Shuffled(nn.Module):
    """A unit of ShuffleNet: half of the channels pass, halves are interleaved, and again cut in two by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.branch, self.head = nn.Conv2d(8, 8, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], dim=1).relu()
        kept, other = x.chunk(2, dim=1)
        x = torch.cat([kept, self.branch(other).relu()], dim=1)
        n, c, h, w = x.shape
        return self.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).mean((2, 3)))


class Scales(nn.Module):
    """As in Res2Net and CSPNet: attributes say how wide the parts of a split are, or all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.expanded = 6, 12
        self.first = nn.Conv2d(3, 3 * self.width, 1)
        self.convs = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1) for _ in range(2))
        self.expand, self.inner = nn.Conv2d(18, self.expanded, 1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = torch.split(self.first(x).relu(), self.width, 1)
        parts = [first]
        for conv, part in zip(self.convs, others, strict=True):
            parts.append(conv(parts[-1] + part).relu())
        kept, other = self.expand(torch.cat(parts, dim=1)).relu().split(self.expanded // 2, dim=1)
        return self.head(torch.cat([kept, self.inner(other)], dim=1).mean((2, 3)))


class Standardised(nn.Conv2d):
    """A convolution that computes its weight and its padding when it runs."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, self.bias, self.stride)


def own_layers() -> nn.Module:
    return nn.Sequential(
        Standardised(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 6, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def windows(version: type[ShiftedWindowAttention]) -> Callable[[], nn.Module]:
    return lambda: Windows(version(24, [3, 3], [1, 1], 4))


# name -> factory, side of the input, {first producer: (units, channels per unit)} of all groups
GRAPHS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, tuple[int, int]]]] = {
    "separate_heads": (
        lambda: Encoder(nn.MultiheadAttention(24, 4, batch_first=True)),
        16,
        {"attention.q": (4, 6), "mlp.0": (32, 1)},
    ),
    "fused_heads": (lambda: Encoder(Fused()), 16, {"attention.qkv": (4, 18), "mlp.0": (32, 1)}),
    "cached_biases": (lambda: Encoder(Caching()), 16, {"attention.qkv": (4, 18), "mlp.0": (32, 1)}),
    "windows": (windows(ShiftedWindowAttention), 16, {"attention.qkv": (4, 18)}),
    "windows_v2": (windows(ShiftedWindowAttentionV2), 16, {"attention.qkv": (4, 18), "attention.cpb_mlp.0": (512, 1)}),
    "relative": (
        lambda: Windows(RelativePositionalMultiHeadAttention(24, 6, 16)),
        16,
        {"attention.to_qkv": (4, 18)},
    ),
    "normalised": (Normalised, 16, {"first": (4, 4), "second": (12, 1), "up": (8, 1), "fine": (4, 4)}),
    "shuffled": (Shuffled, 8, {"left": (8, 1)}),
    "scales": (Scales, 8, {"first": (6, 3), "convs.1": (6, 1), "expand": (6, 2), "inner": (6, 1)}),
    "own_layers": (own_layers, 12, {"0.1": (8, 1), "2": (6, 1)}),
}
