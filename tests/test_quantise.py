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
from evaluators.compose import compose, recalibrate
from evaluators.quantise import (
    ActivationQuantiser,
    QuantisedLayer,
    bake,
    best_scale,
    codes_of,
    fake_quantise,
    quantise_layer,
    weight_range,
)
from evaluators.standalone_loader import read_weights, unpack
from search_spaces.costs import costs
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Factor, Skip, Width

BITS = range(2, 9)


def layer_of(kind: str) -> nn.Conv2d | nn.Linear:
    torch.manual_seed(0)
    return nn.Conv2d(16, 6, 3, padding=1) if kind == "conv" else nn.Linear(144, 6)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_weights_lie_in_the_codebook_and_errors_fall_with_bits(kind: str) -> None:
    layer = layer_of(kind)
    errors = []
    for bits in BITS:
        weight = QuantisedLayer(layer, bits, 32).weight().detach()
        codes, step = codes_of(QuantisedLayer(layer, bits, 32))
        low, high = weight_range(bits)
        assert all(len(channel.unique()) <= 2**bits for channel in weight)
        assert codes.min() >= low and codes.max() <= high and torch.equal(codes * step, weight)
        errors.append(float((weight - layer.weight.detach()).norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01 * float(layer.weight.detach().norm())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_step_size_is_better_than_using_the_whole_range(bits: int) -> None:
    weight = layer_of("conv").weight.detach()
    low, high = weight_range(bits)
    largest = weight.abs().flatten(1).amax(1).view(-1, 1, 1, 1) / high
    chosen, whole = (fake_quantise(weight, step, low, high) for step in (best_scale(weight, bits), largest))
    errors = [((q - weight) ** 2).flatten(1).sum(1) for q in (chosen, whole)]
    assert (errors[0] < errors[1]).all()


def test_gradients_are_those_of_lsq() -> None:
    """Esser et al. 2020 with Qn = 4, Qp = 3, s = 0.5: eq. 3 per value, times the gradient scale 1 / sqrt(N Qp); eq. 5."""
    values = torch.tensor([[0.6, -0.9, 2.5, -3.0, 0.1]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0, 5.0, 7.0]])
    step = torch.tensor([[0.5]], requires_grad=True)
    (fake_quantise(values, step, -4, 3) * upstream).sum().backward()
    eq3 = torch.tensor([1 - 1.2, -2 + 1.8, 3.0, -4.0, 0 - 0.2])
    torch.testing.assert_close(step.grad, ((eq3 * upstream).sum() / (5 * 3) ** 0.5).view(1, 1))
    torch.testing.assert_close(values.grad, upstream * torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0]]))


def test_steps_are_learned_per_channel() -> None:
    layer = QuantisedLayer(layer_of("conv"), 3, 32)
    (layer(torch.randn(2, 16, 5, 5))[:, 2] ** 2).sum().backward()
    assert layer.step is not None and layer.step.shape == (6, 1, 1, 1)
    assert layer.step.grad is not None and layer.step.grad.flatten().nonzero().tolist() == [[2]]


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


@given(st.sampled_from(list(BITS)), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_packing_is_dense_and_loses_nothing(bits: int, raw: list[int]) -> None:
    low, _ = weight_range(bits)
    codes = torch.tensor([value % 2**bits + low for value in raw], dtype=torch.int8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == (len(raw) * bits + 7) // 8
    assert torch.equal(unpack(packed, bits, [len(raw)]), codes)


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


def built(plan: CompressionPlan) -> nn.Module:
    net = named("digits_cnn")
    model = compose(net.model, net.trace, net.ranking, plan)
    recalibrate(model, [torch.rand(16, 1, 8, 8)], ranges=True)
    return model


@pytest.mark.parametrize("plan", [CompressionPlan(), MIXED])
def test_the_stored_payload_is_as_large_as_stated(plan: CompressionPlan) -> None:
    network = named("digits_cnn").network
    payload = sum(t.numel() * t.element_size() for t in packed_state(built(plan)).values())
    assert payload == costs(network, of_plan(network, plan))["size_bytes"][0]


def test_baking_changes_no_bit_and_the_payload_gives_the_baked_weights(tmp_path: Path) -> None:
    model, images = built(MIXED), torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        baked = bake(copy.deepcopy(model))
        assert torch.equal(baked(images), expected)
    assert not any(isinstance(module, QuantisedLayer) for module in baked.modules())
    save_tensors(tmp_path / "weights.safetensors", packed_state(model), packed_metadata(model))
    unpacked = read_weights(tmp_path / "weights.safetensors")
    for name, parameter in baked.named_parameters():
        assert torch.equal(unpacked[name], parameter), name


def test_32_bits_leave_a_layer_alone_and_others_are_refused() -> None:
    layer = layer_of("conv")
    assert quantise_layer(layer, Bits("")) is layer
    with pytest.raises(TypeError, match="only Conv2d and Linear"):
        quantise_layer(nn.ReLU(), Bits("", 4, 8))
    with pytest.raises(ValueError, match="codes exist only"):
        codes_of(QuantisedLayer(layer, 32, 8))


def test_a_constant_or_empty_channel_survives() -> None:
    layer = nn.Conv2d(2, 2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    assert torch.equal(QuantisedLayer(layer, 2, 32).weight(), layer.weight)
    quantiser = ActivationQuantiser(8)
    quantiser.observing = True
    quantiser(torch.zeros(3))
    quantiser.freeze()
    assert np.isfinite(float(quantiser(torch.ones(1)))) and quantiser(torch.zeros(1)) == 0
