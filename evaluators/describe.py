"""From a recording to a torch-free `Network` and the channel maps of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from evaluators.channels import Size, Trace
from evaluators.grouping import Grouping, float_buffers
from evaluators.labels import along
from evaluators.layers import Example, as_arguments
from evaluators.probe import Found, probe
from evaluators.recording import ModuleCall, Recording
from evaluators.replaceable import unreplaceable_layers, unskippable_blocks
from evaluators.trace import record
from search_spaces.network import Activation, Block, Dense, Layer, Network, Product, Step, Vector

NEARLY_ALL = 0.9  # of the channels that labels leave free


def trace(model: nn.Module, example: Example) -> Trace:
    """Describe a model from one forward pass on `example` (1, channels, ...); raises ValueError where that pass fails."""
    _check_dtype(model)
    try:
        recording = record(model, example)
    except Exception as error:  # whatever the user's forward pass may raise
        shapes = ", ".join(str(tuple(x.shape)) for x in as_arguments(example))
        raise ValueError(
            f"the model must run on an input of shape {shapes}, but got {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}; check the model and the data set"
        ) from error
    if not recording.layers:
        raise ValueError(
            "the model must contain at least one Conv2d or Linear layer that its forward pass uses, but got none"
        )
    if not recording.outputs:
        raise ValueError(
            "the model must return a tensor, or tensors in tuples, lists or dicts, but got none; return the logits"
        )
    return _with_fixed(_safe(model, recording, example), model, example)


def _safe(model: nn.Module, recording: Recording, example: Example) -> Trace:
    """What can be cut safely. Where not all groups can, channels that are split by their number are also tried cut evenly: first
    everywhere, which settles most networks at once, then only where cutting failed."""
    described = _described(model, recording, {}, ())
    found = probe(model, described, example, narrow=False)
    if found is not None:
        return _described(model, recording, {}, found.sizes) if found.sizes else described
    evenly = _cut_evenly(model, example, frozenset(name for name, _ in model.named_modules()), narrow=False)
    if evenly is not None and _cuttable(evenly) >= NEARLY_ALL * _cuttable(described):
        return evenly
    found = probe(model, described, example) or Found()
    plain = _described(model, recording, found.refused, found.sizes)
    refused = frozenset(module for name in found.refused for module in described.touched[name])
    evenly = _cut_evenly(model, example, refused, narrow=True)
    return plain if evenly is None else max(plain, evenly, key=_cuttable)


def _cut_evenly(model: nn.Module, example: Example, modules: frozenset[str], narrow: bool) -> Trace | None:
    recording = record(model, example, even=modules)
    found = probe(model, _described(model, recording, {}, ()), example, narrow)
    return None if found is None else _described(model, recording, found.refused, found.sizes)


def _with_fixed(trace: Trace, model: nn.Module, example: Example) -> Trace:
    """Layers that nothing can stand in for keep their form and bits; blocks that cannot be left out are none."""
    network = trace.network
    layers = unreplaceable_layers(model, [layer.name for layer in network.layers], example)
    blocks = unskippable_blocks(model, [block.name for block in network.blocks], example)
    if not layers and not blocks:
        return trace
    steps = tuple(replace(step, block="" if step.block in blocks else step.block) for step in network.steps)
    products = tuple(replace(p, block="" if p.block in blocks else p.block) for p in network.products)
    changed = replace(
        network,
        layers=tuple(replace(layer, replaceable=layer.name not in layers) for layer in network.layers),
        blocks=tuple(block for block in network.blocks if block.name not in blocks),
        steps=steps,
        products=products,
        dense=(*network.dense, *(Dense(name, network.layer(name).out_channels, why) for name, why in layers.items())),
    )
    return replace(trace, network=changed)


def _cuttable(trace: Trace) -> int:
    return sum(group.size * group.unit * len(group.producers) for group in trace.network.groups)


def _check_dtype(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"every parameter must be in float32, but got {name} in {parameter.dtype}; call model.float() first"
            )


def _described(model: nn.Module, recording: Recording, refused: Mapping[str, str], sizes: tuple[Size, ...]) -> Trace:
    grouping = Grouping(recording, refused)
    blocks = tuple(_block(model, recording, call) for call in _residual_calls(recording))
    inside = {op: _block_of(op, blocks) for op in {op.modules for op in recording.ops}}
    counted = {*recording.layers, *recording.vectors, *grouping.dims}
    network = Network(
        layers=tuple(_layer(recording, grouping, name) for name in recording.layers),
        groups=grouping.groups,
        vectors=tuple(_vectors(model, grouping)),
        blocks=blocks,
        activations=tuple(_activation(grouping, recording.units.roots(a)) for a in recording.activations),
        steps=tuple(Step(op.reads, op.makes, op.layer, inside[op.modules]) for op in recording.ops),
        outputs=tuple(recording.outputs),
        dense=grouping.dense,
        fixed_parameters=_count(model.named_parameters(), counted),
        fixed_buffers=_count(float_buffers(model), counted),
        products=tuple(
            Product(
                grouping.axis(recording.units.roots(p.labels)), p.macs, p.labels.numel(), _block_of(p.modules, blocks)
            )
            for p in recording.products
        ),
    )
    known = {(size.module, size.attribute) for size in sizes}
    counting = tuple(
        Size(module, attribute, grouping.axis(recording.units.roots(line)))
        for (module, attribute), line in recording.sizes.items()
        if (module, attribute) not in known
    )
    touched = {group.name: set[str]() for group in grouping.groups}
    for op in recording.ops:
        for index in op.makes:
            for name in grouping.touched(recording.activations[index]):
                touched[name].update(op.modules[-2:] or ("",))
    return Trace(
        network, tuple(grouping.maps(model)), (*counting, *sizes), {k: tuple(sorted(v)) for k, v in touched.items()}
    )


def _layer(recording: Recording, grouping: Grouping, name: str) -> Layer:
    call = recording.layers[name]
    kernel = tuple(call.weight.shape[2:]) or (1, 1)
    return Layer(
        name=name,
        kind=call.kind,
        in_axis=grouping.axis(grouping.lines[(name, "in")]),
        out_axis=grouping.axis(grouping.lines[(name, "out")]),
        in_channels=len(call.in_labels),
        out_channels=len(call.out_labels),
        kernel=(int(kernel[0]), int(kernel[1])),
        groups=call.groups,
        bias=call.bias,
        in_positions=call.in_positions,
        out_positions=call.out_positions,
        calls=call.calls,
        mid_positions=call.mid_positions,
    )


def _vectors(model: nn.Module, grouping: Grouping) -> Iterable[Vector]:
    for name in grouping.recording.vectors:
        module, line = model.get_submodule(name), grouping.lines[(name, "vector")]
        parameters = sum(p.numel() for p in module.parameters()) // len(line)
        buffers = sum(b.numel() for _, b in float_buffers(module)) // len(line)
        yield Vector(name, grouping.axis(line), parameters, buffers)
    trained = {name for name, _ in model.named_parameters()}
    for name in grouping.dims:
        line, labels = grouping.lines[(name, "vector")], grouping.recording.parameters[name]
        each = labels.numel() // len(line)
        yield Vector(name, grouping.axis(line), each * (name in trained), each * (name not in trained))


def _activation(grouping: Grouping, roots: Tensor) -> Activation:
    for dim in (1, roots.dim() - 1):
        if roots.dim() > dim >= 0 and (line := along(roots, dim)) is not None:
            return Activation(grouping.axis(line), roots.numel() // len(line))
    return Activation(grouping.axis(roots), 1)


def _residual_calls(recording: Recording) -> list[ModuleCall]:
    """Innermost submodules, called once, that add their input to their output and end with the labels they began with."""
    often = Counter(call.name for call in recording.modules)
    found = [c for c in recording.modules if often[c.name] == 1 and c.alone and _residual(recording, c)]
    return [c for c in found if not any(o.name.startswith(c.name + ".") for o in found)]


def _residual(recording: Recording, call: ModuleCall) -> bool:
    ops = recording.ops[call.first : call.last]
    if not any(op.layer for op in ops) or call.input == call.output:
        return False
    if not any(op.name in ("add", "add_") and call.input in op.reads for op in ops):
        return False
    return torch.equal(recording.units.roots(call.in_labels), recording.units.roots(call.out_labels))


def _block(model: nn.Module, recording: Recording, call: ModuleCall) -> Block:
    layers = tuple(dict.fromkeys(op.layer for op in recording.ops[call.first : call.last] if op.layer))
    inside = (*recording.vectors, *recording.parameters)
    vectors = tuple(name for name in inside if name.startswith(call.name + "."))
    local = {name[len(call.name) + 1 :] for name in (*layers, *vectors)}
    module = model.get_submodule(call.name)
    return Block(
        name=call.name,
        layers=layers,
        vectors=vectors,
        input=call.input,
        output=call.output,
        fixed_parameters=_count(module.named_parameters(), local),
        fixed_buffers=_count(float_buffers(module), local),
    )


def _block_of(modules: tuple[str, ...], blocks: tuple[Block, ...]) -> str:
    return next((b.name for b in blocks if b.name in modules), "")


def _count(tensors: Iterable[tuple[str, Tensor]], counted: set[str]) -> int:
    """Elements of the tensors that belong to no counted layer or vector."""
    return sum(t.numel() for name, t in tensors if name not in counted and name.rpartition(".")[0] not in counted)
