"""Decompositions: exact at full rank, optimal where theory says so, and as large as the formulas state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import count
from evaluators.factorise import FACTORISERS
from search_spaces.costs import parts
from search_spaces.network import Axis, Layer

CONVS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": (1, 0), "bias": False},
    {"dilation": 2, "padding": 2},
    {"stride": (2, 1), "padding": "valid"},
    {"padding": "same", "padding_mode": "reflect"},
]


def conv(**geometry: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 10, 3, **geometry)  # type: ignore[arg-type]


@pytest.mark.parametrize("geometry", CONVS)
@pytest.mark.parametrize(("method", "ranks"), [("svd", (10,)), ("tucker2", (6, 10))])
def test_full_rank_reproduces_a_convolution(geometry: dict[str, object], method: str, ranks: tuple[int, ...]) -> None:
    layer, images = conv(**geometry), torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(FACTORISERS[method](layer, ranks)(images), layer(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_full_rank_reproduces_a_linear_layer(bias: bool) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(7, 12, bias=bias), torch.randn(3, 5, 7)
    torch.testing.assert_close(FACTORISERS["svd"](layer, (7,))(inputs), layer(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "chain"), [("svd", [(r,) for r in range(1, 11)]), ("tucker2", [(r, r) for r in range(1, 7)])]
)
def test_the_error_falls_with_the_rank(method: str, chain: list[tuple[int, ...]]) -> None:
    layer, images = conv(padding=1), torch.randn(8, 6, 12, 12)
    errors = [float(_weight_error(layer, method, ranks)) for ranks in chain]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]
    assert FACTORISERS[method](layer, chain[0])(images).shape == layer(images).shape


def _weight_error(layer: nn.Conv2d, method: str, ranks: tuple[int, ...]) -> torch.Tensor:
    return (_effective(FACTORISERS[method](layer, ranks), layer) - layer.weight.detach()).norm()


def _effective(chain: nn.Sequential, layer: nn.Conv2d) -> torch.Tensor:
    """The kernel that a chain stands for: its answer to every unit impulse, read off at the centre of a 5 x 5 image."""
    impulses = torch.zeros(6 * 9, 6, 5, 5)
    for channel in range(6):
        for place in range(9):
            impulses[channel * 9 + place, channel, 1 + place // 3, 1 + place % 3] = 1
    with torch.no_grad():
        answer = (chain(impulses) - chain(torch.zeros(1, 6, 5, 5)))[:, :, 2, 2]
    return answer.T.reshape(10, 6, 3, 3)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_svd_is_optimal(rank: int) -> None:
    """Eckart and Young: the squared error is the energy of the singular values left out."""
    layer = conv(padding=1)
    values = np.linalg.svd(layer.weight.detach().double().flatten(1).numpy(), compute_uv=False)
    assert float(_weight_error(layer, "svd", (rank,))) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)


def test_tucker2_is_at_least_as_good_as_plain_truncation() -> None:
    """Orthogonal iteration starts from the truncated higher-order SVD and never gets worse (De Lathauwer et al. 2000)."""
    layer = conv(padding=1)
    weight = layer.weight.detach().double().numpy()
    u_in = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(6, -1))[0][:, :3]
    u_out = np.linalg.svd(weight.reshape(10, -1))[0][:, :4]
    truncated = np.einsum("ncij,ns,ms,cr,dr->mdij", weight, u_out, u_out, u_in, u_in)
    assert float(_weight_error(layer, "tucker2", (3, 4))) <= np.linalg.norm(truncated - weight) + 1e-6


@pytest.mark.parametrize(
    ("method", "ranks", "params", "macs"),
    [
        # k = 3, C = 6, N = 10, 8 x 8 at stride 2 -> 4 x 4; algorithms.md 12.1, plus the bias of N
        ("svd", (5,), 5 * (9 * 6 + 10), 5 * (9 * 6 + 10) * 16),
        ("tucker2", (4, 5), 6 * 4 + 9 * 4 * 5 + 5 * 10, 6 * 4 * 64 + 9 * 4 * 5 * 16 + 5 * 10 * 16),
    ],
)
def test_sizes_follow_the_formulas(method: str, ranks: tuple[int, ...], params: int, macs: int) -> None:
    chain = FACTORISERS[method](conv(stride=2, padding=1), ranks)
    assert count.parameters(chain) == params + 10
    assert count.macs(chain, torch.zeros(1, 6, 8, 8)) == macs
    layer = Layer("", "conv", Axis(6), Axis(10), 6, 10, (3, 3), 1, True, in_positions=64, out_positions=16)
    found = parts(layer, method, np.array([6]), np.array([10]), np.array([(*ranks, 0)[:2]]))
    assert (sum(p.weights[0] for p in found), sum(p.macs[0] for p in found)) == (params, macs)


@pytest.mark.parametrize(
    ("layer", "method", "ranks"),
    [
        (nn.Conv2d(6, 10, 3), "svd", (11,)),
        (nn.Conv2d(6, 10, 3), "svd", (0,)),
        (nn.Conv2d(6, 10, 3), "tucker2", (7, 3)),
        (nn.Conv2d(6, 10, 3), "tucker2", (3,)),
        (nn.Conv2d(6, 6, 3, groups=2), "svd", (2,)),
        (nn.Linear(6, 6), "tucker2", (2, 2)),
        (nn.ReLU(), "svd", (2,)),
    ],
)
def test_what_cannot_be_factorised_gets_one_sentence(layer: nn.Module, method: str, ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="but got"):
        FACTORISERS[method](layer, ranks)
