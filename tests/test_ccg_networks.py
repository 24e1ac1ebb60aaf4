"""Generators and discriminators of CycleGAN: what their trace says, against counts by hand, and cuts of shared codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.channels import Trace
from evaluators.compose import compose
from evaluators.count import parameters
from evaluators.describe import trace
from evaluators.gan.networks import GeneratorPair, patch_discriminator, resnet_generator
from evaluators.prepare import prepared
from evaluators.probe import masked
from evaluators.saliency import Ranking
from search_spaces.cost_tables import CostTables
from search_spaces.costs import costs
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import full
from search_spaces.space import CompressionSpace

CODES = SpaceOptions(
    channel_codes=True, shared_codes=("*blocks.*",), weight_bits=(), activation_bits=(), factors=(), skip_blocks=False
)


def traced(model: nn.Module, *example: torch.Tensor) -> tuple[nn.Module, Trace]:
    ready = prepared(model.eval(), example)
    return ready, trace(ready, example)


def tiny_pair() -> tuple[nn.Module, Trace, CompressionSpace]:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 1, 12, 12)
    model, found = traced(GeneratorPair(resnet_generator(1, 4, 2), resnet_generator(1, 4, 2)), *images)
    shared = ("a_to_b.blocks.*", "b_to_a.blocks.*")
    return model, found, build_space(found.network, SpaceOptions(**{**vars(CODES), "shared_codes": shared}))


def test_the_generator_of_the_paper_has_640_bits_and_the_macs_of_a_count_by_hand() -> None:
    """64 of c7s1-64, 128 of d128, 256 of d256 and with it of all 18 convolutions of the 9 blocks, 128 of u128, 64 of u64; the 3
    outputs stay. MACs: weights times the places at which a kernel is applied (of a transposed convolution its input places)."""
    size = 16
    _, found = traced(resnet_generator(3, 64, 9), torch.zeros(1, 3, size, size))
    space = build_space(found.network, CODES)
    assert len(space.genes) == 64 + 128 + 256 + 128 + 64 == 640
    whole, half, quarter = size**2, size**2 // 4, size**2 // 16
    by_hand = (
        49 * 3 * 64 * whole
        + 9 * (64 * 128 * half + 128 * 256 * quarter)
        + 18 * 9 * 256 * 256 * quarter
        + 9 * (256 * 128 * quarter + 128 * 64 * half)
        + 49 * 64 * 3 * whole
    )
    weights = 2 * 49 * 3 * 64 + 2 * 9 * (64 * 128 + 128 * 256) + 18 * 9 * 256 * 256
    biases = 64 + 128 + 256 + 18 * 256 + 128 + 64 + 3
    counted = costs(found.network, full(found.network, 1))
    assert counted["macs"][0] == by_hand
    assert counted["params"][0] == weights + biases


def test_without_shared_codes_the_insides_of_blocks_have_bits_of_their_own() -> None:
    _, found = traced(resnet_generator(1, 4, 3), torch.zeros(1, 1, 12, 12))
    options = SpaceOptions(**{**vars(CODES), "shared_codes": ()})
    assert len(build_space(found.network, options).genes) == 4 + 8 + 16 + 8 + 4 + 3 * 16


def test_a_pair_is_one_network_of_two_codes() -> None:
    _, found, space = tiny_pair()
    names = [name.split(":")[1].split(".")[0] for name in space.names]
    assert names.count("a_to_b") == names.count("b_to_a") == 4 + 8 + 16 + 8 + 4
    assert not [group for group in found.network.groups if {p.split(".")[0] for p in group.producers} > {"a_to_b"}]


def test_a_shared_code_cuts_every_convolution_of_the_residual_stage_alike() -> None:
    """The cut pair computes what the whole one does without those channels, and counts as predicted."""
    model, found, space = tiny_pair()
    rng = np.random.default_rng(0)
    genome = space.repair((rng.random(len(space.genes)) < 0.6).astype(int).tolist())
    plan = space.decode(genome)
    stage = {m.group: m.kept for m in plan.masks if m.group == "a_to_b.down2.0" or m.group.startswith("a_to_b.blocks")}
    assert len(stage) == 3 and len(set(stage.values())) == 1
    cut = compose(model, found, Ranking({}), plan).eval()
    whole = masked(model, found, {mask.group: mask.kept for mask in plan.masks})
    images = torch.randn(2, 2, 1, 12, 12)
    for got, expected in zip(cut(*images), whole(*images), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    counted = CostTables(space).costs(np.array([genome]))
    assert counted["params"][0] == parameters(cut)
    assert counted["macs"][0] == costs(space.network, space.phenotypes(np.array([genome])))["macs"][0]


def test_a_pattern_that_shares_nothing_is_refused() -> None:
    _, found = traced(resnet_generator(1, 4, 1), torch.zeros(1, 1, 12, 12))
    for pattern, sizes in (("nowhere.*", "none"), ("*", r"stem.1 \(4\), down1.0 \(8\)")):
        options = SpaceOptions(**{**vars(CODES), "shared_codes": (pattern,)})
        with pytest.raises(ValueError, match=f"one size, but got .*which matches {sizes}.*; evo doctor"):
            build_space(found.network, options)


def test_a_patch_discriminator_judges_patches_of_70_pixels() -> None:
    """An output of 3 layers sees 70 x 70 pixels, and stands for 8 x 8 of them (Isola et al. 2017)."""
    torch.manual_seed(0)
    judge = patch_discriminator(3, 4, 3)
    for module in judge.modules():
        if isinstance(module, nn.InstanceNorm2d):  # its statistics see the whole image
            module.eval().forward = lambda x: x  # type: ignore[method-assign]
    images = torch.randn(1, 3, 128, 128, requires_grad=True)
    patches = judge(images)
    assert patches.shape == (1, 1, 14, 14)
    patches[0, 0, 7, 7].backward()
    seen = images.grad.abs().sum((0, 1)) > 0  # type: ignore[union-attr]
    assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == 70
