"""What binds on a device, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from small_run import evo, settings, write_config

from evo.config.schema import validate
from evo.views.bottleneck import Target, find_bottleneck, loads, parse_quantity, target_of
from search_spaces.network import Activation, Axis, Layer, Network, Step

# Two layers on one sample: a convolution 3 -> 8, 3 x 3, on 4 x 4 places, then a linear layer 8 -> 10 on one place.
CONV = Layer("conv", "conv", Axis(3), Axis(8), 3, 8, (3, 3), 1, False, 16, 16)
HEAD = Layer("head", "linear", Axis(8), Axis(10), 8, 10, (1, 1), 1, False, 1, 1)
NETWORK = Network(
    (CONV, HEAD),
    (),
    (),
    (),
    (Activation(Axis(3), 16), Activation(Axis(8), 16), Activation(Axis(8), 1), Activation(Axis(10), 1)),
    (Step((0,), (1,), "conv"), Step((1,), (2,)), Step((2,), (3,), "head")),
    (3,),
    (),
    0,
    0,
)
CONV_WEIGHTS, HEAD_WEIGHTS = 216, 80
CONV_MACS = 216 * 16
CONV_BYTES = 4 * (216 + 3 * 16 + 8 * 16)
HEAD_BYTES = 4 * (80 + 8 + 10)
COSTS = {"size_bytes": 4.0 * 296, "macs": float(CONV_MACS + 80), "peak_activation_bytes": 4.0 * (48 + 128)}


def test_loads_by_hand() -> None:
    conv, head = loads(NETWORK)
    assert (conv.weights, conv.macs, conv.moved) == (CONV_WEIGHTS, CONV_MACS, CONV_BYTES)
    assert (head.weights, head.macs, head.moved) == (HEAD_WEIGHTS, 80, HEAD_BYTES)
    assert (conv.alive, head.alive) == (4 * (48 + 128), 4 * (8 + 10))


def test_time_is_the_roofline_sum() -> None:
    target = Target(macs_per_s=1e6, bandwidth=1e6, deadline=1e-3)
    found = find_bottleneck(loads(NETWORK), COSTS, target)
    compute_bound, bandwidth_bound = CONV_MACS / 1e6, HEAD_BYTES / 1e6  # the convolution, the linear layer
    time = found.needs[-1]
    assert time.needed == pytest.approx(compute_bound + bandwidth_bound)
    assert found.compute_share == pytest.approx(compute_bound / time.needed)
    assert found.binding == "compute" and found.constraints == (("macs", 1000.0),)
    slow_memory = find_bottleneck(loads(NETWORK), COSTS, Target(macs_per_s=1e9, bandwidth=1e6, deadline=1e-3))
    assert slow_memory.binding == "bandwidth" and slow_memory.objectives == ("top1_error", "size_bytes")


@pytest.mark.parametrize(
    ("target", "binding", "constraints"),
    [
        (Target(flash=500, ram=600), "storage", (("size_bytes", 500), ("peak_activation_bytes", 600))),
        (Target(flash=1100, ram=100), "activation memory", (("peak_activation_bytes", 100), ("size_bytes", 1100))),
        (Target(flash=2000, ram=1000), "activation memory", ()),
        (Target(macs_per_s=1e6), None, ()),
    ],
    ids=["storage", "memory", "fits", "no limit"],
)
def test_what_binds(target: Target, binding: str | None, constraints: tuple[tuple[str, float], ...]) -> None:
    found = find_bottleneck(loads(NETWORK), COSTS, target)
    assert found.binding == binding and sorted(found.constraints) == sorted(constraints)


@pytest.mark.parametrize(
    ("text", "value"), [("1MB", 1e6), ("256KiB", 262_144), ("200M", 2e8), ("4e9", 4e9), ("1.5 GB/s", 1.5e9)]
)
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text, "flash") == value


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "0", "1XB"])
def test_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"--flash must be a positive quantity .*; correct it"):
        parse_quantity(text, "flash")


def test_a_deadline_needs_a_speed() -> None:
    with pytest.raises(ValueError, match="add one of them"):
        target_of({"flash": "1MB", "macs-per-s": None}, 5.0)
    assert target_of({"flash": None}, None) is None


def test_the_suggestion_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = settings(None)
    config = write_config(tmp_path / "config.yaml", values)
    report = json.loads(evo(capsys, "doctor", config, "--flash", "8KB", "--ram", "4KB", "--json").out)
    layers = report["layers"]
    assert max(row["activation_share"] for row in layers) == 1.0
    assert 0.9 < sum(row["params_share"] for row in layers) < 1 and sum(row["macs_share"] for row in layers) == 1.0
    assert report["target"]["binding"] == "storage"
    text = evo(capsys, "doctor", config, "--flash", "8KB", "--ram", "4KB").out
    suggested = yaml.safe_load(text[text.index("objectives:") :])
    assert validate({**values, **suggested}).constraints[0].upper == 8000
    hopeless = evo(capsys, "doctor", config, "--flash", "10").out
    assert "out of reach of this space" in hopeless
    assert evo(capsys, "doctor", config, "--flash", "lots").code == 2
