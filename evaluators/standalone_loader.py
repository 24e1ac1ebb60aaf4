"""Load this compressed network: needs torch, numpy and safetensors, nothing else.

from load import load
model = load("path/of/this/folder")    # a torch.nn.Module in eval mode: normalised images in, logits out
"""

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


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """All tensors in float32: a quantised weight is codes * step, one step per output channel."""
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
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
        filled = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)  # another layout would round otherwise
        filled.copy_(state.get(name, torch.zeros(value.shape)))
        is_parameter = isinstance(value, torch.nn.Parameter)
        program.state_dict[name] = torch.nn.Parameter(filled, requires_grad=False) if is_parameter else filled
    return program.module()
