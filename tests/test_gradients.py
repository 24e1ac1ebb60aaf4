"""Logit shifts of single images equal those that automatic differentiation gives, image by image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evaluators import gradients as module_under_test
from evaluators.describe import trace
from evaluators.gradients import Gradients, collect_gradients
from evaluators.statistics import collect

CLASSES, IMAGES = 5, 12


class Plain(nn.Module):
    """A grouped convolution and a layer that is called twice; nothing is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=4)
        self.twice = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.first(x).relu()).relu()
        return self.head(self.twice(self.twice(x).relu()).mean((2, 3)))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def gathered(model: nn.Module, images: Tensor, seed: int = 3) -> Gradients:
    network = trace(model, images[:1]).network
    names = [layer.name for layer in network.layers]
    return collect_gradients(
        model, network, collect(model, names, images, seed=0), images, seed, batch=max(4, len(images) // 10)
    )


def images(count: int = IMAGES) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def directions(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.cat([torch.randn(4, CLASSES, generator=generator) for _ in range(count // 4)])
    return drawn - drawn.mean(1, keepdim=True)


@pytest.mark.parametrize("name", ["first", "grouped", "twice", "head"])
def test_shifts_are_the_derivatives_of_the_logits(name: str) -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    found = gathered(model, images()).layers[name]
    weight = model.get_submodule(name).weight
    change = torch.randn_like(weight)
    expected = []
    for image, v in zip(images(), directions(3, IMAGES), strict=True):
        (gradient,) = torch.autograd.grad((model(image[None])[0] * v).sum(), weight)
        expected.append(float((gradient * change).sum()) / (2 * CLASSES) ** 0.5)
    shifts = found.shifts(change.flatten(1))
    torch.testing.assert_close(shifts, torch.tensor(expected), rtol=0.02, atol=0.02 * float(shifts.abs().max()))
    assert not found.normalised


def test_a_change_that_batch_norm_takes_back_costs_nothing() -> None:
    torch.manual_seed(0)
    model = Normed().eval()
    found = gathered(model, images()).layers["conv"]
    assert found.normalised
    rescaled = found.weight * torch.linspace(0.5, 2, len(found.weight))[:, None]
    other = torch.randn_like(found.weight)
    assert found.shifts(rescaled - found.weight).abs().max() < 1e-4 * found.shifts(other).abs().max()


def test_the_mean_square_predicts_the_distance_of_centred_logits() -> None:
    """Of a linear network exactly, but for the random directions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES))
    many = images(2000)
    found = gathered(model, many).layers["1"]
    change = 0.1 * torch.randn(CLASSES, 72)
    moved = many.flatten(1) @ change.T
    expected = float((moved - moved.mean(1, keepdim=True)).square().sum(1).mean()) / (2 * CLASSES)
    assert float(found.shifts(change).square().mean()) == pytest.approx(expected, rel=0.15)


def test_large_networks_keep_fewer_rows_of_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES))
    full = gathered(model, images(2000)).layers["1"]
    monkeypatch.setattr(module_under_test, "MOST_BYTES", 2 * 250 * 72 * CLASSES)
    few = gathered(model, images(2000)).layers["1"]
    assert (len(full.rows), len(few.rows)) == (2000, 250)
    change = torch.randn(CLASSES, 72)
    assert float(few.shifts(change).square().mean()) == pytest.approx(
        float(full.shifts(change).square().mean()), rel=0.25
    )


def test_leaving_a_block_out_is_its_whole_difference() -> None:
    from evaluators.models.cifar_resnet import resnet8

    torch.manual_seed(0)
    model = resnet8().eval()
    batch = torch.randn(8, 3, 32, 32)
    network = trace(model, batch[:1]).network
    names = [layer.name for layer in network.layers]
    found = collect_gradients(model, network, collect(model, names, batch, seed=0), batch, seed=1)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(8, 10, generator=generator)
    v = v - v.mean(1, keepdim=True)
    for name, shifts in found.blocks.items():
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor], output: Tensor, kept: list[Tensor] = kept) -> None:
            output.retain_grad()
            kept.extend([args[0], output])

        handle = model.get_submodule(name).register_forward_hook(keep)
        (model(batch) * v).sum().backward()
        handle.remove()
        before, after = kept
        assert after.grad is not None
        expected = (after.grad * (before - after)).flatten(1).sum(1) / 20**0.5
        torch.testing.assert_close(shifts, expected.detach(), rtol=1e-3, atol=1e-5)
    assert found.blocks
