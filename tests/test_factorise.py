"""Decompositions: exact at full rank, optimal where theory says so, and as large as the formulas state."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import named
from torch import nn

from evaluators import count
from evaluators.chains import patch_map
from evaluators.factorise import FACTORISERS, factorise
from evaluators.moments import collect_moments
from evaluators.rank_rules import energy, options_by, vbmf
from evo.registry import FACTORISATIONS
from search_spaces.decompositions import RANKS, parts
from search_spaces.genes import FactorGene
from search_spaces.network import Axis, Layer
from search_spaces.options import SpaceOptions, build_space
from search_spaces.ranks import ranks_for

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


FULL = {"svd": (10,), "tucker2": (6, 10), "spatial": (18,), "cp": (54,)}


@pytest.mark.parametrize("geometry", CONVS)
@pytest.mark.parametrize("method", FULL)
def test_full_rank_reproduces_a_convolution(geometry: dict[str, object], method: str) -> None:
    layer, images = conv(**geometry), torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(FACTORISERS[method](layer, FULL[method])(images), layer(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("method", "ranks"), [("svd", (8,)), ("tt2", (6,)), ("tt3", (4, 6)), ("tt3", (4, 3))])
def test_full_rank_reproduces_a_linear_layer(bias: bool, method: str, ranks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(8, 12, bias=bias), torch.randn(3, 5, 8)
    chain = FACTORISERS[method](layer, ranks)
    assert _close(chain(inputs), layer(inputs)) == (ranks != (4, 3))  # cores (2, 2), (2, 2), (2, 3): bonds 4 and 6


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "chain"),
    [
        ("svd", [(r,) for r in range(1, 11)]),
        ("tucker2", [(r, r) for r in range(1, 7)]),
        ("spatial", [(r,) for r in range(1, 19)]),
        ("cp", [(r,) for r in (1, 2, 4, 8, 16, 32, 54)]),
    ],
)
def test_the_error_falls_with_the_rank(method: str, chain: list[tuple[int, ...]]) -> None:
    layer, images = conv(padding=1), torch.randn(8, 6, 12, 12)
    errors = [float(_weight_error(layer, method, ranks)) for ranks in chain]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]
    assert FACTORISERS[method](layer, chain[0])(images).shape == layer(images).shape


@pytest.mark.parametrize(
    ("method", "chain"), [("tt2", [(r,) for r in range(1, 13)]), ("tt3", [(r, 2 * r) for r in range(1, 5)])]
)
def test_the_error_of_tensor_trains_falls_with_the_rank(method: str, chain: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 36)
    weight = layer.weight.detach()
    errors = [
        float((patch_map(list(FACTORISERS[method](layer, ranks)), weight.shape) - weight).norm()) for ranks in chain
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]


def test_the_laws_hold_for_every_entry_of_the_table() -> None:
    """Exact at full rank, falling with the rank, no worse for looking at the inputs: those above and below."""
    assert {*FULL, "tt2", "tt3"} == set(FACTORISATIONS) == set(FACTORISERS)


def test_a_tensor_train_fitted_to_inputs_is_the_least_squares_solution() -> None:
    """The core that is fitted, against least squares over all its entries at once on the inputs themselves."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(12, 24, bias=False), torch.randn(400, 12) @ torch.randn(12, 12)
    moments = collect_moments(nn.Sequential(layer), ["0"], [inputs])["0"]
    chain = factorise(layer, "tt3", (2, 3), moments)
    found = float((chain(inputs) - layer(inputs)).detach().square().sum())
    at = [i for i, part in enumerate(chain) if isinstance(part, nn.Linear)][-1]
    core, columns = chain[at], []
    with torch.no_grad():
        for entry in range(core.weight.numel()):
            core.weight.copy_(torch.eye(core.weight.numel())[entry].view_as(core.weight))
            columns.append(chain(inputs).flatten())
        basis, wanted = torch.stack(columns, 1).double(), layer(inputs).flatten().double()
    best = (basis @ torch.linalg.lstsq(basis, wanted).solution - wanted).square().sum()
    assert found == pytest.approx(float(best), rel=1e-3)


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


def test_spatial_and_tensor_train_pairs_are_optimal() -> None:
    """Both are truncated SVDs of a rearranged weight (Jaderberg et al. 2014; Van Loan and Pitsianis 1993)."""
    layer = conv(padding=1)
    weight = layer.weight.detach().double().numpy()
    values = np.linalg.svd(weight.transpose(1, 2, 0, 3).reshape(18, 30), compute_uv=False)
    assert float(_weight_error(layer, "spatial", (7,))) == pytest.approx(np.sqrt((values[7:] ** 2).sum()), rel=1e-4)
    torch.manual_seed(0)
    dense = nn.Linear(6, 12)
    pairs = [(torch.randn(3, 2), torch.randn(4, 3)) for _ in range(2)]
    with torch.no_grad():
        dense.weight.copy_(sum(torch.kron(a, b) for a, b in pairs))
    chain = FACTORISERS["tt2"](dense, (2,))
    torch.testing.assert_close(patch_map(list(chain), (12, 6)), dense.weight.detach(), rtol=1e-4, atol=1e-5)


def test_cp_finds_planted_components() -> None:
    torch.manual_seed(0)
    planted = [torch.randn(size, 4) for size in (10, 6, 3, 3)]
    layer = conv(padding=1)
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("nr,cr,ir,jr->ncij", *planted))
    assert float(_weight_error(layer, "cp", (4,))) < 1e-3 * float(layer.weight.detach().norm())
    assert float(_weight_error(layer, "cp", (2,))) > 0.1 * float(layer.weight.detach().norm())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", [*FULL, "linear svd", "linear tt2", "linear tt3"])
def test_inputs_as_metric_never_raise_the_error_of_the_outputs(method: str, bias: bool) -> None:
    """On the very inputs whose moments were taken, with and without a bias to take up the mean."""
    torch.manual_seed(0)
    mixing = torch.randn(6, 6) ** 3
    if method.startswith("linear"):
        layer: nn.Module = nn.Linear(6, 10, bias=bias) if method == "linear svd" else nn.Linear(12, 24, bias=bias)
        inputs = torch.randn(300, layer.in_features // 6, 6) @ mixing + 1
        inputs = inputs.flatten(1)
    else:
        layer = conv(padding=1, stride=2, bias=bias)
        inputs = torch.einsum("bcij,dc->bdij", torch.randn(20, 6, 9, 9), mixing).relu()
    name = method.removeprefix("linear ")
    ranks = (3, 3)[: RANKS[name]]
    moments = collect_moments(nn.Sequential(layer), ["0"], [inputs])["0"]
    plain, aware = factorise(layer, name, ranks), factorise(layer, name, ranks, moments)
    errors = [float((chain(inputs) - layer(inputs)).detach().square().mean()) for chain in (plain, aware)]
    assert errors[1] < 0.97 * errors[0]


def test_the_data_aware_svd_is_optimal() -> None:
    """The squared output error is the energy of the singular values of W M^1/2 left out (Zhang et al. 2016)."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(6, 10, bias=False), torch.randn(500, 6) @ torch.randn(6, 6)
    moments = collect_moments(nn.Sequential(layer), ["0"], [inputs])["0"]
    chain = factorise(layer, "svd", (2,), moments)
    found = float((chain(inputs) - layer(inputs)).detach().square().sum(1).mean())
    eigenvalues = torch.linalg.eigvalsh(layer.weight.detach() @ moments.second(False) @ layer.weight.detach().T)
    assert found == pytest.approx(float(eigenvalues.sort().values[:-2].sum()), rel=1e-3)


@pytest.mark.parametrize(("shape", "rank"), [((32, 64), 10), ((128, 100), 20), ((64, 64), 5), ((100, 400), 40)])
def test_variational_bayes_finds_the_rank_of_a_noisy_matrix(shape: tuple[int, int], rank: int) -> None:
    """The oracle is the matrix's own making: a known rank plus noise, and noise alone (Nakajima et al. 2013, section 4)."""
    rng = np.random.default_rng(rank)
    noise = rng.standard_normal(shape)
    signal = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    assert vbmf(signal + noise) == rank
    assert vbmf(signal.T + noise.T) == rank and vbmf(0.01 * (signal + noise)) == rank
    assert vbmf(noise) == 0


def test_energy_by_hand() -> None:
    matrix = np.diag([3.0, 2.0, 1.0, 0.0])  # energies 9, 4, 1 of 14
    assert [energy(matrix, share) for share in (0.5, 9 / 14, 0.7, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_rules_become_options_that_lead_back_to_their_ranks() -> None:
    net = named("digits_cnn")
    model = copy.deepcopy(net.model)
    with torch.no_grad():  # a layer of nearly rank 3 in both channel modes
        weight = model.down.weight
        weight.copy_(torch.einsum("nr,rsij,sc->ncij", *(torch.randn(s) for s in ((48, 3), (3, 3, 3, 3), (3, 24)))))
        weight.add_(0.05 * torch.randn_like(weight))
    found = options_by(model, net.network, ("svd", "tucker2"), ("vbmf", "energy:0.6"))
    layer = net.network.layer("down")
    sizes = np.array([layer.in_channels]), np.array([layer.out_channels])
    by_method = {o.method: ranks_for(layer, o, *sizes)[0][0].tolist() for o in reversed(found["down"])}
    assert by_method == {"svd": [3, 0], "tucker2": [3, 3]}
    space = build_space(net.network, SpaceOptions(factors=("tucker2",)), found)
    gene = next(g for g in space.genes if g.name == "factor:down")
    assert isinstance(gene, FactorGene) and {o.method for o in gene.options} == {"none", "tucker2"}
    assert len(gene.options) > 4


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
        ("spatial", (5,), 3 * 5 * (6 + 10), 3 * 5 * (6 * 4 * 8 + 10 * 16)),
        ("cp", (5,), 5 * (6 + 3 + 3 + 10), 5 * (6 * 64 + 3 * 4 * 8 + 3 * 16 + 10 * 16)),
    ],
)
def test_sizes_follow_the_formulas(method: str, ranks: tuple[int, ...], params: int, macs: int) -> None:
    chain = FACTORISERS[method](conv(stride=2, padding=1), ranks)
    assert count.parameters(chain) == params + 10
    assert count.macs(chain, torch.zeros(1, 6, 8, 8)) == macs
    layer = Layer("", "conv", Axis(6), Axis(10), 6, 10, (3, 3), 1, True, in_positions=64, out_positions=16)
    layer = replace(layer, mid_positions=4 * 8)
    found = parts(layer, method, np.array([6]), np.array([10]), np.array([(*ranks, 0)[:2]]))
    assert (sum(p.weights[0] for p in found), sum(p.macs[0] for p in found)) == (params, macs)


@pytest.mark.parametrize(("method", "ranks"), [("tt2", (5,)), ("tt3", (2, 3))])
def test_sizes_of_tensor_trains(method: str, ranks: tuple[int, ...]) -> None:
    """Parameters and MACs of the real module, places and a bias included."""
    dense = nn.Linear(24, 36)
    chain = FACTORISERS[method](dense, ranks)
    layer = Layer("", "linear", Axis(24), Axis(36), 24, 36, (1, 1), 1, True, in_positions=7, out_positions=7)
    found = parts(layer, method, np.array([24]), np.array([36]), np.array([(*ranks, 0)[:2]]))
    assert count.parameters(chain) == sum(p.weights[0] for p in found) + 36
    assert count.macs(chain, torch.zeros(1, 7, 24)) == sum(p.macs[0] for p in found)
    if method == "tt2":  # 36 = 6 x 6, 24 = 4 x 6: Novikov et al. 2015, section 4
        assert sum(p.weights[0] for p in found) == 5 * (4 * 6 + 6 * 6)
        assert sum(p.macs[0] for p in found) == 7 * (4 * 6 * 5 * 6 + 6 * 4 * 5 * 6)


@pytest.mark.parametrize(
    ("layer", "method", "ranks"),
    [
        (nn.Conv2d(6, 10, 3), "svd", (11,)),
        (nn.Conv2d(6, 10, 3), "svd", (0,)),
        (nn.Conv2d(6, 10, 3), "tucker2", (7, 3)),
        (nn.Conv2d(6, 10, 3), "tucker2", (3,)),
        (nn.Conv2d(6, 6, 3, groups=2), "svd", (2,)),
        (nn.Linear(6, 6), "tucker2", (2, 2)),
        (nn.Linear(6, 6), "cp", (2,)),
        (nn.Conv2d(6, 10, 3), "spatial", (19,)),
        (nn.Conv2d(6, 10, 3), "tt2", (2,)),
        (nn.Linear(6, 6), "tt3", (2, 9)),
        (nn.ReLU(), "svd", (2,)),
    ],
)
def test_what_cannot_be_factorised_gets_one_sentence(layer: nn.Module, method: str, ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="but got"):
        FACTORISERS[method](layer, ranks)
