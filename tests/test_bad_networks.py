"""Networks that are hard to search: they work, or one sentence says why not before anything long begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import settings
from torch import Tensor, nn

import evo
from evaluators.datasets import digits
from evaluators.describe import trace


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    convs = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(*convs, nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


class Depends(nn.Module):
    """Which way it goes depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        first = self.net[:2](x)
        return self.net[2:](first if first.mean() > 0.1 else -first)


class Leaves(Depends):
    """Computes something outside torch, where neither labels nor gradients follow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2:](torch.from_numpy(self.net[:2](x).detach().numpy() * 1))


def frozen() -> nn.Module:
    return plain().requires_grad_(False)


def shared() -> nn.Module:
    """Two layers with one parameter."""
    model = plain()
    model[4].weight = model[2].weight
    return model


def half() -> nn.Module:
    return plain().half()


def search(model: nn.Module, run_dir: Path) -> evo.Result:
    sections = {key: value for key, value in settings(None).items() if key not in ("name", "model", "data")}
    return evo.search(model, digits(), run_dir=run_dir, validation=60, **{**sections, "budget": {"generations": 1}})


@pytest.mark.parametrize("make", [Depends, frozen, shared])
def test_these_are_searched(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    result = search(model, tmp_path / "run")
    assert result.front and not [e.reason for e in result.evaluations if not e.completed]
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    if make is Depends:
        with pytest.raises(ValueError, match=r"must be exportable as onnx, but got .*; use another format") as caught:
            result.pick("knee").export(tmp_path / "net.onnx")
        assert "\n" not in str(caught.value) and "Guard" in str(caught.value)


def test_layers_that_share_a_parameter_keep_it() -> None:
    network = trace(shared(), torch.randn(1, 1, 8, 8)).network
    assert [layer.name for layer in network.layers] == ["0", "7"]
    assert network.fixed_parameters == 8 * 8 * 9 + 2 * 8


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (half, "every parameter must be in float32, but got 0.weight in torch.float16; call"),
        (Leaves, r"every layer must run in the forward pass and get a gradient, but got none for net\.0; take detach"),
    ],
)
def test_these_get_one_sentence(make: Callable[[], nn.Module], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        search(make(), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
