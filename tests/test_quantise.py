"""Quantisers: values lie in the codebook, gradients follow the paper, and what is stored is what was measured."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import named
from torch import nn

from evaluators.artifacts import pack, packed_metadata, packed_state, save_tensors
from evaluators.codebooks import FIXED, Uniform, fit_step, step_error
from evaluators.compose import compose, recalibrate
from evaluators.factorise import factorise
from evaluators.masks import mask_of
from evaluators.moments import InputMoments, collect_moments
from evaluators.part_moments import part_moments
from evaluators.quantise import (
    ActivationQuantiser,
    QuantisedLayer,
    bake,
    codes_of,
    quantise_chain,
    quantise_layer,
)
from evaluators.ranges import Seen, rounding_error
from evaluators.standalone_loader import read_weights, unpack
from evaluators.weight_quantiser import WeightQuantiser, fake_quantise, rounded_weight
from evo.registry import CODEBOOKS, RANGES, ROUNDINGS, resolve
from search_spaces import codebooks
from search_spaces.costs import costs
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Factor, Skip, Sparse, Width
from search_spaces.sparsity import nonzero, pattern_of

GROUPS = (codebooks.CHANNEL, codebooks.TENSOR, 32)
SCHEMES = [(name, group) for name in CODEBOOKS for group in GROUPS if name != "kmeans" or group == codebooks.TENSOR]


def layer_of(kind: str) -> nn.Conv2d | nn.Linear:
    torch.manual_seed(0)
    return nn.Conv2d(16, 6, 3, padding=1) if kind == "conv" else nn.Linear(150, 6)


def test_the_tables_name_what_plans_may_say() -> None:
    assert tuple(CODEBOOKS) == codebooks.NAMES
    assert tuple(ROUNDINGS) == codebooks.ROUNDINGS and tuple(RANGES) == codebooks.RANGES


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize(("codebook", "group"), SCHEMES)
def test_weights_lie_in_the_codebook_and_errors_fall_with_bits(kind: str, codebook: str, group: int) -> None:
    layer = layer_of(kind)
    errors = []
    for bits in codebooks.CODEBOOKS[codebook]:
        stored = Bits("", bits, 32, codebook, group)
        weight = QuantisedLayer(copy.deepcopy(layer), stored).weight().detach()
        size = group if group > 0 else weight[0].numel()
        rows = [weight] if group == codebooks.TENSOR else [w for row in weight.flatten(1) for w in row.split(size)]
        assert all(len(each.unique()) <= 2**bits for each in rows)
        quantiser = WeightQuantiser(layer.weight, stored)
        step, offset = quantiser.grid(layer.weight[0].numel())
        values = (
            quantiser.levels().values[quantiser.codes(weight).long()].flatten(1)
        )  # what a loader makes of the codes
        torch.testing.assert_close((values * step + offset).view_as(weight), weight, rtol=1e-5, atol=1e-6)
        errors.append(float((weight - layer.weight.detach()).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.75 * float(layer.weight.detach().norm())


@given(st.integers(0, 2**16), st.sampled_from([2, 3, 4]), st.sampled_from([1.0, 3.0]))
def test_no_clipped_range_has_a_smaller_error_than_the_fitted_step(seed: int, bits: int, power: float) -> None:
    rows = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed))
    rows = rows.sign() * rows.abs() ** power
    levels = FIXED["symmetric"](bits)
    used = (torch.rand(3, 40, generator=torch.Generator().manual_seed(seed + 1)) < 0.7).float()
    rows = rows * used
    found = step_error(rows, used, fit_step(rows, used, levels), levels)
    for share in np.linspace(0.3, 1.0, 21):
        other = torch.maximum(rows.amax(1) / levels.high, rows.amin(1) / levels.low) * float(share)
        assert (found <= step_error(rows, used, other, levels) * (1 + 1e-5)).all()


def test_binary_weights_have_the_closed_form_scale() -> None:
    """Rastegari et al. 2016, eq. 6: sign(W) times the mean magnitude of the filter."""
    weight = layer_of("conv").weight.detach()
    binary = rounded_weight(weight, Bits("", 1), torch.eye(144))
    torch.testing.assert_close(binary, weight.sign() * weight.abs().mean((1, 2, 3), keepdim=True))


def test_ternary_weights_are_at_least_as_close_as_the_closed_form() -> None:
    """Li et al. 2016, eq. 6: threshold 0.7 of the mean magnitude, scale the mean magnitude above it."""
    weight = layer_of("linear").weight.detach()
    threshold = 0.7 * weight.abs().mean(1, keepdim=True)
    above = weight.abs() > threshold
    scale = (weight.abs() * above).sum(1, keepdim=True) / above.sum(1, keepdim=True)
    paper = (weight.sign() * above * scale - weight).square().sum(1)
    ours = (rounded_weight(weight, Bits("", 2, codebook="ternary"), torch.eye(150)) - weight).square().sum(1)
    assert (ours <= paper * (1 + 1e-6)).all() and (ours > 0.5 * paper).all()


def test_powers_of_two_and_k_means() -> None:
    weight = layer_of("linear").weight.detach()
    power = rounded_weight(weight, Bits("", 4, codebook="power_of_two"), torch.eye(150))
    ratios = (power / power.abs().amax(1, keepdim=True)).abs()
    exponents = torch.log2(ratios[ratios > 0])
    torch.testing.assert_close(exponents, exponents.round(), atol=1e-5, rtol=0)
    table = rounded_weight(weight, Bits("", 3, codebook="kmeans", group=codebooks.TENSOR), torch.eye(150))
    for value in table.unique():  # Lloyd's fixed point: every entry is the mean of its members
        assert float(weight[table == value].mean()) == pytest.approx(float(value), abs=2e-3)


def test_gptq_never_loses_to_rounding_to_nearest_nor_beats_every_choice() -> None:
    torch.manual_seed(1)
    x = torch.randn(400, 5) @ torch.randn(5, 5)
    moment, weight = x.T @ x / 400, torch.randn(30, 5)
    nearest, gptq = (rounded_weight(weight, Bits("", 2, rounding=how), moment) for how in ROUNDINGS)
    errors = [((w - weight) @ moment * (w - weight)).sum(1) for w in (nearest, gptq)]
    assert (errors[1] <= errors[0]).all() and errors[1].sum() < 0.9 * errors[0].sum()
    step = WeightQuantiser(weight, Bits("", 2)).step
    assert step is not None
    codes = torch.cartesian_prod(*[torch.arange(-2.0, 2.0)] * 5)
    choices = codes * step.detach()[:, None] - weight[:, None]  # (30, 1024, 5)
    best = torch.einsum("nci,ij,ncj->nc", choices, moment, choices).amin(1)
    assert (errors[1] >= best * (1 - 1e-5)).all() and errors[1].sum() < 2 * best.sum()


@pytest.mark.parametrize("group", GROUPS)
def test_reconstruction_aware_rounding_survives_wrapping(group: int) -> None:
    torch.manual_seed(0)
    layer, x = layer_of("linear"), torch.randn(500, 150) @ torch.randn(150, 150)
    moments = InputMoments(x.mean(0), x.T.cov(correction=0))
    quantised = QuantisedLayer(copy.deepcopy(layer), Bits("", 3, 32, "affine", group, "gptq"), moments)
    expected = rounded_weight(layer.weight, Bits("", 3, 32, "affine", group, "gptq"), moments.second(bias=True))
    torch.testing.assert_close(quantised.weight().detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "ranks", "known"), [("svd", (4,), {0, 1}), ("tucker2", (5, 4), {1, 2}), ("cp", (7,), {3})]
)
def test_factors_are_rounded_with_regard_to_what_they_read(
    method: str, ranks: tuple[int, ...], known: set[int]
) -> None:
    """Their moments are those that are collected on images, and the outputs are closer than by rounding to the nearest."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    images = torch.einsum("bcij,dc->bdij", torch.randn(30, 8, 9, 9), torch.randn(8, 8)).relu()
    inputs, chain = collect_moments(nn.Sequential(layer), ["0"], [images])["0"], factorise(layer, method, ranks)
    found = part_moments(chain, (3, 3), inputs)
    assert set(found) == known
    for at, collected in collect_moments(chain, map(str, known), [images]).items():
        torch.testing.assert_close(found[int(at)].mean, collected.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[int(at)].covariance, collected.covariance, rtol=1e-3, atol=1e-3)
    errors = []
    for moments in ({}, found):  # the parts without moments are compared as they are
        rounded = quantise_chain(copy.deepcopy(chain), Bits("", 2, rounding="gptq"), moments)
        mixed = nn.Sequential(*(rounded[at] if at in known else part for at, part in enumerate(chain)))
        errors.append(float((mixed(images) - chain(images)).detach().square().mean()))
    assert errors[1] < 0.95 * errors[0]


def test_gradients_are_those_of_lsq() -> None:
    """Esser et al. 2020 with Qn = 4, Qp = 3, s = 0.5: eq. 3 per value, times the gradient scale 1 / sqrt(N Qp); eq. 5."""
    values = torch.tensor([[0.6, -0.9, 2.5, -3.0, 0.1, 1.5, -2.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0, 5.0, 7.0, 11.0, 13.0]])
    step = torch.tensor([[0.5]], requires_grad=True)
    (fake_quantise(values, step, Uniform(-4, 3), 1) * upstream).sum().backward()
    eq3 = torch.tensor([1 - 1.2, -2 + 1.8, 3.0, -4.0, 0 - 0.2, 3.0, -4.0])  # the ends of the range count as outside
    torch.testing.assert_close(step.grad, ((eq3 * upstream).sum() / (7 * 3) ** 0.5).view(1, 1))
    torch.testing.assert_close(values.grad, upstream * torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]))


def test_steps_are_learned_per_channel() -> None:
    layer = QuantisedLayer(layer_of("conv"), Bits("", 3))
    (layer(torch.randn(2, 16, 5, 5))[:, 2] ** 2).sum().backward()
    assert layer.quantiser is not None and layer.quantiser.step is not None
    assert layer.quantiser.step.shape == (6, 1)
    assert layer.quantiser.step.grad is not None and layer.quantiser.step.grad.flatten().nonzero().tolist() == [[2]]


@pytest.mark.parametrize(("codebook", "group"), SCHEMES)
def test_every_codebook_learns(codebook: str, group: int) -> None:
    """A few steps of plain gradient descent on what a quantiser learns bring the layer closer to another one of its kind."""
    layer = QuantisedLayer(layer_of("linear"), Bits("", 2, 32, codebook, group))
    assert layer.quantiser is not None
    torch.manual_seed(3)
    x = torch.randn(64, 150)
    target = x @ (0.8 * layer.layer.weight.detach()).T + layer.layer.bias.detach()
    learned = list(layer.quantiser.parameters())
    losses = []
    for _ in range(20):
        loss = (layer(x) - target).square().mean()
        losses.append(loss.item())
        for parameter, gradient in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            parameter.data -= 0.02 * gradient
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_activation_codes(bits: int, shift: float) -> None:
    quantiser = ActivationQuantiser(bits)
    quantiser.observing = True
    inputs = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - shift
    assert quantiser(inputs) is inputs
    quantiser.freeze()
    outputs = quantiser(torch.cat([inputs, inputs * 3]))
    codes = outputs / quantiser.scale + quantiser.zero
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    assert codes.round().min() == 0 and codes.round().max() == 2**bits - 1
    assert quantiser(torch.zeros(1)) == 0  # zero padding stays exact
    clipped = quantiser(inputs) if bits >= 8 else quantiser(inputs.clamp(max=float(outputs.max())))
    reference = inputs if bits >= 8 else inputs.clamp(max=float(outputs.max()))
    assert (clipped - reference).abs().max() <= 1.01 * quantiser.scale


def test_activation_gradients_pass_inside_the_range_only() -> None:
    quantiser = ActivationQuantiser(4)
    quantiser.observing = True
    quantiser(torch.linspace(0, 1, 100_001))
    quantiser.freeze()
    inputs = torch.tensor([-0.5, 0.4, 2.0], requires_grad=True)
    quantiser(inputs).sum().backward()
    assert inputs.grad is not None and inputs.grad.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("rule", RANGES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ranges(rule: str, bits: int) -> None:
    """No rule beats the range of least error; a long tail makes clipping worth it at few bits."""
    sample = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).relu() ** 2
    seen = Seen(sample.amin(), sample.amax(), sample)
    errors = {name: float(rounding_error(sample, resolve("ranges", name)(seen, bits), bits)) for name in RANGES}
    assert errors["mse"] <= errors[rule] and errors[rule] <= errors["minmax"] * 1.0001
    if bits == 2:
        assert errors["mse"] < 0.5 * errors["minmax"] and errors["percentile"] < 0.9 * errors["minmax"]
    quantiser = ActivationQuantiser(bits, rule)
    quantiser.observing = True
    quantiser(sample[:10_000])
    quantiser(sample[10_000:])
    quantiser.freeze()
    found = float((quantiser(sample) - sample).square().mean())
    assert found == pytest.approx(errors[rule], rel=1e-4) and quantiser.seen == []


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_packing_is_dense_and_loses_nothing(bits: int, raw: list[int]) -> None:
    codes = torch.tensor([value % 2**bits for value in raw], dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == (len(raw) * bits + 7) // 8
    assert unpack(packed, bits, [len(raw)]).tolist() == codes.tolist()


MIXED = CompressionPlan(
    widths=(Width("stem", 17), Width("block1.conv1", 11)),
    skips=(Skip("block2"),),
    factors=(Factor("down", "tucker2", (7, 9)), Factor("block1.conv2", "svd", (5,))),
    bits=(
        Bits("stem", 5, 32),
        Bits("block1.conv1", 3, 8),
        Bits("block1.conv2", 7, 4),
        Bits("down", 2, 8),
        Bits("head", 32, 8),
    ),
)

FORMS = CompressionPlan(
    factors=(Factor("block2.conv1", "svd", (5,)),),
    bits=(
        Bits("stem", 1, 8),
        Bits("block1.conv1", 4, 8, "affine", 40, range="mse"),
        Bits("block1.conv2", 2, 32, "ternary", codebooks.TENSOR),
        Bits("down", 4, 6, "power_of_two", range="minmax"),
        Bits("block2.conv1", 3, 8, "kmeans", codebooks.TENSOR),
        Bits("block2.conv2", 5, 32, "symmetric", 16),
        Bits("head", 1, 32, "affine"),
    ),
)

MASKED = CompressionPlan(
    widths=(Width("stem", 17),),
    sparse=(
        Sparse("block1.conv1", 2, 4),
        Sparse("block1.conv2", 3, 7),
        Sparse("down", 1, 3, structured=False),
        Sparse("block2.conv1", 100, 1000, structured=False),
        Sparse("block2.conv2", 1, 2),
        Sparse("head", 5, 100),
    ),
    bits=(
        Bits("block1.conv1", 1, 8, group=40),
        Bits("block1.conv2", 3, 8, "affine"),
        Bits("down", 4, 32, "kmeans", codebooks.TENSOR),
        Bits("block2.conv1", 32, 8),
        Bits("block2.conv2", 4, 32, "power_of_two"),
    ),
)


def built(plan: CompressionPlan) -> nn.Module:
    net = named("digits_cnn")
    model = compose(net.model, net.trace, net.ranking, plan)
    recalibrate(model, [torch.rand(16, 1, 8, 8)], ranges=True)
    return model


@pytest.mark.parametrize("plan", [CompressionPlan(), MIXED, FORMS, MASKED])
def test_the_stored_payload_is_as_large_as_stated(plan: CompressionPlan) -> None:
    network = named("digits_cnn").network
    payload = sum(t.numel() * t.element_size() for t in packed_state(built(plan)).values())
    assert payload == costs(network, of_plan(network, plan))["size_bytes"][0]


def test_the_plans_hold_every_codebook() -> None:
    assert {bits.codebook for plan in (MIXED, FORMS, MASKED) for bits in plan.bits} == set(CODEBOOKS)


@pytest.mark.parametrize("plan", [MIXED, FORMS, MASKED])
def test_baking_changes_no_bit_and_the_payload_gives_the_baked_weights(tmp_path: Path, plan: CompressionPlan) -> None:
    model, images = built(plan), torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        baked = bake(copy.deepcopy(model))
        assert torch.equal(baked(images), expected)
    assert not any(isinstance(module, QuantisedLayer) for module in baked.modules())
    save_tensors(tmp_path / "weights.safetensors", packed_state(model), packed_metadata(model))
    unpacked = read_weights(tmp_path / "weights.safetensors")
    for name, parameter in baked.named_parameters():
        assert torch.equal(unpacked[name], parameter), name


def test_masks_keep_what_the_pattern_says_also_while_tuning() -> None:
    model = built(MASKED)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantisedLayer)}
    assert set(layers) == {sparse.layer for sparse in MASKED.sparse}
    loss = model(torch.rand(8, 1, 8, 8)).square().mean()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loss.backward()
    optimiser.step()
    for sparse in MASKED.sparse:
        weight, mask = layers[sparse.layer].weight().detach(), layers[sparse.layer].mask
        assert mask is not None and not weight[~mask].any()
        size = np.array([weight.shape[0]]), np.array([weight[0].numel()])
        assert int(mask.sum()) == nonzero(np.array([[sparse.kept, sparse.of, sparse.structured]]), *size)[0]
        if sparse.structured:
            whole = mask.flatten(1)[:, : size[1][0] // sparse.of * sparse.of].unflatten(1, (-1, sparse.of))
            assert (whole.sum(2) == sparse.kept).all()


def test_masks_keep_the_largest_weights() -> None:
    weight = torch.tensor([[0.1, -3.0, 2.0, 0.5, -0.2], [1.0, 1.0, 0.0, 1.0, 9.0]])
    two_of_four = [[0, 1, 1, 0, 1], [1, 1, 0, 0, 1]]
    assert mask_of(weight, pattern_of("2:4")).int().tolist() == two_of_four
    assert mask_of(weight, pattern_of(0.25)).int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]
    for wrong in ("4:2", "1.5", "half", "0:4", 0.0, 1.0):
        with pytest.raises(ValueError, match="a sparsity must be"):
            pattern_of(wrong)


def test_a_mask_saves_bytes_and_bit_operations_only() -> None:
    network = named("digits_cnn").network
    dense = costs(network, of_plan(network, CompressionPlan(bits=(Bits("down", 4, 8),))))
    half = CompressionPlan(sparse=(Sparse("down", 2, 4),), bits=(Bits("down", 4, 8),))
    masked = costs(network, of_plan(network, half))
    weights = 48 * 24 * 9
    assert masked["size_bytes"] == dense["size_bytes"] - weights * 4 // 8 // 2 + weights // 8
    assert masked["bops"] == dense["bops"] - weights // 2 * 16 * 4 * 8
    assert masked["macs"] == dense["macs"] and masked["params"] == dense["params"]


def test_32_bits_leave_a_layer_alone_and_others_are_refused() -> None:
    layer = layer_of("conv")
    assert quantise_layer(layer, Bits("")) is layer
    with pytest.raises(TypeError, match="only Conv2d and Linear"):
        quantise_layer(nn.ReLU(), Bits("", 4, 8))
    for other in (Bits("", 32, 8), Bits("", 4, 8, "affine"), Bits("", 4, 8, group=16)):
        with pytest.raises(ValueError, match="codes with one step exist only"):
            codes_of(QuantisedLayer(layer, other))


@pytest.mark.parametrize("group", [codebooks.CHANNEL, codebooks.TENSOR])
def test_signed_codes_times_steps_are_the_weight(group: int) -> None:
    quantised = QuantisedLayer(layer_of("conv"), Bits("", 4, 32, group=group))
    codes, step = codes_of(quantised)
    assert codes.dtype == torch.int8 and codes.min() >= -8 and codes.max() <= 7
    assert torch.equal(codes * step, quantised.weight())


def test_a_constant_or_empty_channel_survives() -> None:
    layer = nn.Conv2d(2, 2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    assert torch.equal(QuantisedLayer(layer, Bits("", 2)).weight(), layer.weight)
    quantiser = ActivationQuantiser(8)
    quantiser.observing = True
    quantiser(torch.zeros(3))
    quantiser.freeze()
    assert np.isfinite(float(quantiser(torch.ones(1)))) and quantiser(torch.zeros(1)) == 0
