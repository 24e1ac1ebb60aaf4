"""Load this compressed network: needs torch, numpy and safetensors, nothing else.

from load import load
model = load("path/of/this/folder")    # a torch.nn.Module in eval mode: normalised images in, logits out
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open


def unpack(packed: torch.Tensor, bits: int, shape: list[int]) -> torch.Tensor:
    """Codes of `bits` bits each, 8 bits to a byte, lowest code first: -2**(bits - 1)."""
    count = int(np.prod(shape))
    as_bits = np.unpackbits(packed.numpy())[: count * bits].reshape(count, bits)
    values = as_bits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
    return torch.from_numpy(values - 2 ** (bits - 1)).view(shape)


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The stored tensors, and "bits:shape" of each packed weight. One tensor `packed` is a string of bytes that layout.json
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
    """All tensors in float32: a quantised weight is codes * step, one step per output channel."""
    tensors, metadata = read_tensors(file)
    state = {name: tensor for name, tensor in tensors.items() if not name.endswith((".codes", ".step"))}
    for name, spec in metadata.items():
        bits, _, shape = spec.partition(":")
        codes = unpack(tensors[f"{name}.codes"], int(bits), [int(size) for size in shape.split(",")])
        state[name] = codes.float() * tensors[f"{name}.step"].view(-1, *[1] * (codes.dim() - 1))
    return state


def load(folder: str | Path = Path(__file__).parent) -> torch.nn.Module:
    """The network with its weights."""
    program = torch.export.load(Path(folder) / "graph.pt2")
    state = read_weights(Path(folder) / "weights.safetensors")
    for name, value in program.state_dict.items():
        if name not in state and value.is_floating_point() and not name.endswith((".low", ".high")):
            raise KeyError(f"weights.safetensors must hold {name}; the file is not the one written with graph.pt2")
        filled = state.get(name, torch.zeros(value.shape)).to(value.dtype).contiguous()
        is_parameter = isinstance(value, torch.nn.Parameter)
        program.state_dict[name] = torch.nn.Parameter(filled, requires_grad=False) if is_parameter else filled
    return program.module()
