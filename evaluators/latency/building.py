"""Measure the table of layer times of a network in a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from evaluators.latency.measure import alone, alone_on_this_machine, runtime_of
from evaluators.latency.runtime import MOVES, LayerShape, Runtime, Target
from evaluators.latency.table import Grid, LatencyTable, Moves, Site, channel_points

REPEATS = 5
ELEMENTS = 262_144  # of the tensors on which moves are timed: 1 MB in float32, as between layers


def build_table(model: nn.Module, layers: list[str], images: Tensor, target: Target) -> LatencyTable:
    """Time every geometry among `layers` (names of convolutions and linear layers) on inputs as they have for `images`.

    Some ten milliseconds for each of 64 points per geometry and number format: a minute for a ResNet-20, a few for a ResNet-50.
    """
    runtime = runtime_of(target)
    shapes = layer_shapes(model, layers, images)
    sites, most = {}, dict[str, LayerShape]()
    for name, (shape, output) in shapes.items():
        wanted = (shape, _pointwise(shape, shape.size), _pointwise(shape, output))
        for one in wanted:
            seen = most.get(_key(one), one)
            most[_key(one)] = replace(one, c_in=max(one.c_in, seen.c_in), c_out=max(one.c_out, seen.c_out))
        sites[name] = Site(*(_key(one) for one in wanted))
    with alone_on_this_machine():
        floats = {key: _grid(runtime, shape, False, target.threads) for key, shape in most.items()}
        integers = {key: _grid(runtime, shape, True, target.threads) for key, shape in most.items() if runtime.integers}
        moves = _moves(runtime, target.threads)
    return LatencyTable(sites, floats, integers, moves, target.batch)


def _moves(runtime: Runtime, threads: int) -> Moves:
    kinds = MOVES if runtime.integers else ("add",)
    return Moves(**{kind: 1e3 * alone(runtime.move(kind, ELEMENTS, threads), REPEATS) / ELEMENTS for kind in kinds})


def layer_shapes(
    model: nn.Module, layers: list[str], images: Tensor
) -> Mapping[str, tuple[LayerShape, tuple[int, int]]]:
    """Each layer's shape and its output's size, seen in one forward pass; of one that is called often, the last call."""
    found: dict[str, tuple[LayerShape, tuple[int, int]]] = {}

    def seen(name: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
        found[name] = _shape(module, given), _size(module, output)

    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: seen(name, module, given[0], output)
        )
        for name in layers
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def _shape(module: nn.Module, given: Tensor) -> LayerShape:
    if isinstance(module, nn.Conv2d):
        pads = (
            module.padding
            if isinstance(module.padding, tuple)
            else (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
        )
        sizes = module.in_channels, module.out_channels
        geometry = _two(module.kernel_size), _two(module.stride), _two(pads), _two(module.dilation)
        return LayerShape(*sizes, *geometry, module.groups, _size(module, given), len(given))
    if isinstance(module, nn.Linear):
        sizes, none, one = (module.in_features, module.out_features), (0, 0), (1, 1)
        return LayerShape(*sizes, none, one, none, one, 1, _size(module, given), len(given))
    raise TypeError(f"only Conv2d and Linear layers can be timed, but got {type(module).__name__}; leave it out")


def _size(module: nn.Module, tensor: Tensor) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return tensor.numel() // (len(tensor) * tensor.shape[-1]), 1
    return int(tensor.shape[-2]), int(tensor.shape[-1])


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    return int(values[0]), int(values[-1])


def _pointwise(shape: LayerShape, size: tuple[int, int]) -> LayerShape:
    if shape.kernel == (0, 0):
        return shape
    ones = (1, 1)
    return LayerShape(shape.c_in, shape.c_out, ones, ones, (0, 0), ones, 1, size, shape.batch)


def _key(shape: LayerShape) -> str:
    grouped = shape.groups > 1
    groups = "each" if shape.groups == shape.c_in else str(shape.groups)
    return repr((shape.kernel, shape.stride, shape.padding, shape.dilation, shape.size, groups if grouped else "1"))


def _grid(runtime: Runtime, shape: LayerShape, integer: bool, threads: int) -> Grid:
    """Channel numbers of a grouped convolution move together, so its grid has one row."""
    if shape.groups > 1:
        steps = channel_points(shape.c_out // shape.groups) if shape.groups < shape.c_in else (1,)
        grouped = [(step * shape.groups, shape.groups) for step in steps]
        if shape.groups == shape.c_in:
            grouped = [(channels, channels) for channels in channel_points(shape.c_in)]
        times = [_time(runtime, replace(shape, c_in=c, c_out=c, groups=g), integer, threads) for c, g in grouped]
        return Grid((shape.c_in,), tuple(c for c, _ in grouped), (tuple(times),))
    inputs, outputs = channel_points(shape.c_in), channel_points(shape.c_out)
    rows = (tuple(_time(runtime, replace(shape, c_in=a, c_out=b), integer, threads) for b in outputs) for a in inputs)
    return Grid(inputs, outputs, tuple(rows))


def _time(runtime: Runtime, shape: LayerShape, integer: bool, threads: int) -> float:
    return 1e3 * alone(runtime.layer(shape, integer, threads), REPEATS)
