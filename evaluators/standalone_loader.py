"""Load this compressed network: needs torch, numpy and safetensors, nothing else.

from load import load
model = load("path/of/this/folder")    # a torch.nn.Module in eval mode: normalised images in, logits out
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open


def unpack(packed: torch.Tensor, bits: int, shape: list[int]) -> torch.Tensor:
    """Codes 0..2**bits - 1 of `bits` bits each, 8 bits to a byte."""
    count = int(np.prod(shape))
    as_bits = np.unpackbits(packed.numpy())[: count * bits].reshape(count, bits)
    values = as_bits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
    return torch.from_numpy(values).view(shape)


def levels(codebook: str, bits: int) -> torch.Tensor:
    """What the codes 0, 1, ... stand for before they are multiplied by a step."""
    if codebook == "power_of_two":
        positive = 2.0 ** -torch.arange(2 ** (bits - 1) - 1, dtype=torch.float32)
        return torch.cat([-positive, torch.zeros(1), positive.flip(0)])
    if codebook == "symmetric" and bits == 1:
        return torch.tensor([-1.0, 1.0])
    lowest = {"symmetric": -(2 ** (bits - 1)), "affine": 0, "ternary": -1}[codebook]
    return torch.arange(lowest, lowest + 2**bits, dtype=torch.float32)


def weight(name: str, form: dict[str, Any], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """A stored weight in float32: levels[code] * step (+ offset), or table[code]; zero where its mask says so."""
    shape = form["shape"]
    mask = torch.ones(shape, dtype=torch.bool)
    if f"{name}.mask" in tensors:
        mask = unpack(tensors[f"{name}.mask"], 1, shape).bool()
    if f"{name}.values" in tensors:
        return torch.zeros(shape).masked_scatter(mask, tensors[f"{name}.values"])
    kept = unpack(tensors[f"{name}.codes"], form["bits"], [int(mask.sum())])
    codes = torch.zeros(shape, dtype=torch.int64).masked_scatter(mask, kept).flatten(1)
    if form["codebook"] == "kmeans":
        return tensors[f"{name}.table"][codes].view(shape) * mask
    values = levels(form["codebook"], form["bits"])[codes]

    def each(kind: str) -> torch.Tensor:  # one number per tensor, per channel or per group of weights of a channel
        stored = tensors[f"{name}.{kind}"]
        rows = stored.view(1 if form["group"] < 0 else len(codes), -1)
        return rows if rows.shape[1] == 1 else rows.repeat_interleave(form["group"], 1)[:, : codes.shape[1]]

    values = values * each("step")
    return (values + each("offset") if form["codebook"] == "affine" else values).view(shape) * mask


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The stored tensors, and the form of each packed weight as JSON. One tensor `packed` is a string of bytes that layout.json
    beside it cuts into tensors; bytes are in the order of the machine, which is little-endian nearly everywhere."""
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    if set(tensors) != {"packed"}:
        return tensors, metadata
    layout = json.loads(file.with_name("layout.json").read_text())
    whole = tensors["packed"].numpy()
    cut = {name: _cut(whole, *place) for name, place in layout["tensors"].items()}
    return cut, layout["quantised"]


def _cut(whole: np.ndarray, dtype: str, shape: list[int], start: int) -> torch.Tensor:
    count, size = int(np.prod(shape)), np.dtype(dtype).itemsize
    return torch.from_numpy(whole[start : start + count * size].copy().view(dtype).reshape(shape))


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """All tensors in float32."""
    tensors, metadata = read_tensors(file)
    stored = [name for name in metadata if f"{name}.codes" in tensors or f"{name}.values" in tensors]
    forms = {name: json.loads(metadata[name]) for name in stored}
    parts = tuple(f"{name}." for name in forms)
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(parts)}
    return {**state, **{name: weight(name, form, tensors) for name, form in forms.items()}}


def load(folder: str | Path = Path(__file__).parent) -> torch.nn.Module:
    """The network with its weights."""
    program = torch.export.load(Path(folder) / "graph.pt2")
    state = read_weights(Path(folder) / "weights.safetensors")
    for name, value in program.state_dict.items():
        if name not in state and value.is_floating_point() and not name.endswith((".low", ".high")):
            raise KeyError(f"weights.safetensors must hold {name}; the file is not the one written with graph.pt2")
        # The layout in memory is kept too: sums in another order can move a rounded activation by a whole step.
        filled = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        filled.copy_(state.get(name, torch.zeros(value.shape)))
        is_parameter = isinstance(value, torch.nn.Parameter)
        program.state_dict[name] = torch.nn.Parameter(filled, requires_grad=False) if is_parameter else filled
    return program.module()
