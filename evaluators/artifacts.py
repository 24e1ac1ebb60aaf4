"""Tuned weights kept beside a run, as safetensors; and quantised weights packed at their bit-width."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from evaluators.codebooks import SMALLEST
from evaluators.quantise import ActivationQuantiser, QuantisedLayer
from evaluators.weight_quantiser import WeightQuantiser
from evo.candidates import Predecessor
from evo.storage.verification import CONTENT_SHA256
from search_spaces.plan import CompressionPlan


def tuned_name(
    plan: CompressionPlan,
    step: str,
    seed: int,
    how: Mapping[str, str],
    version: int = 0,
    lineage: Sequence[Predecessor] = (),
) -> str:
    """how: for each step what decides its weights beside plan and seed; version: that of the shared weights from which the
    network was taken, if any; lineage: what it went on from."""
    taken = f"-{version}" if version else ""
    before = [(earlier.plan.digest, earlier.step, earlier.seed, how[earlier.step]) for earlier in lineage]
    after = f"-after-{_short(json.dumps(before))}" if lineage else ""
    return f"{plan.digest}-{step}-{seed}-{_short(how[step])}{taken}{after}.safetensors"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save_tuned(folder: Path, name: str, module: nn.Module) -> None:
    """Write the module's state so that a reader sees all of it or nothing."""
    save_tensors(folder / name, module.state_dict())


def save_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """One safetensors file, put in place whole, with a checksum of its tensors in the metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(tensor_bytes(tensors, metadata))
    os.replace(partial, file)


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file, with a checksum of its tensors in the metadata."""
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return save(own, {**(metadata or {}), CONTENT_SHA256: _content_sha256(own)})


def _content_sha256(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes() if tensors[name].numel() else b"")
    return content.hexdigest()


def kept_state(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The kept state of a tuned module, for one of the same plan; None where none is kept."""
    return load_file(folder / name) if (folder / name).is_file() else None


def load_tuned(folder: Path, name: str, module: nn.Module) -> bool:
    """Load a kept state into a module of the same plan; False where none is kept."""
    state = kept_state(folder, name)
    if state is not None:
        module.load_state_dict(state)
    return state is not None


def packed_state(module: nn.Module) -> dict[str, Tensor]:
    """Everything inference needs, at the size that `size_bytes` states: codes packed bit by bit, the rest in float32.

    Names are those of the baked module. A quantised weight `a.weight` becomes `a.weight.codes` (uint8, packed) and, in float32,
    `.step`, `.offset` and `.table` as its codebook has them; one with a mask has `.mask`, a bitmap, and codes (or float32
    `.values`) of the weights that remain. Its form belongs into the file's metadata (see `packed_metadata`).
    """
    state: dict[str, Tensor] = {}
    for name, child in _leaves(module):
        if isinstance(child, QuantisedLayer):
            state.update(_packed_layer(name, child))
        else:
            state.update(_plain(name, child))
    return state


def packed_metadata(module: nn.Module) -> dict[str, str]:
    """For every packed weight its form as JSON: bits, codebook, group and shape."""
    wrapped = [(n, m) for n, m in _leaves(module) if isinstance(m, QuantisedLayer)]
    packed = [(n, m) for n, m in wrapped if m.quantiser is not None or m.mask is not None]
    return {f"{_inner(n, m)}.weight": json.dumps(_form(m)) for n, m in packed}


def _form(layer: QuantisedLayer) -> dict[str, Any]:
    bits = layer.bits
    return {
        "bits": bits.weight,
        "codebook": bits.codebook,
        "group": bits.group,
        "shape": list(layer.layer.weight.shape),
    }


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes 0..2^bits - 1 (uint8) as a dense bit string, 8 bits to a byte: uint8 of ceil(n * bits / 8)."""
    as_bits = np.unpackbits(codes.flatten().numpy()[:, None], axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(as_bits.reshape(-1)))


def _leaves(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Modules with state of their own; a quantised layer counts as one."""
    if isinstance(module, QuantisedLayer):
        return [(prefix, module)]
    own = [(prefix, module)] if any(True for _ in (*module.parameters(False), *module.buffers(False))) else []
    for name, child in module.named_children():
        own.extend(_leaves(child, f"{prefix}.{name}" if prefix else name))
    return own


def _inner(name: str, layer: QuantisedLayer) -> str:
    """Where the layer proper ends up when it is baked."""
    return name if isinstance(layer.input, nn.Identity) else f"{name}.layer"


def _packed_layer(name: str, layer: QuantisedLayer) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    inner = _inner(name, layer)
    state.update(_packed_weight(f"{inner}.weight", layer))
    if layer.layer.bias is not None:
        state[f"{inner}.bias"] = layer.layer.bias.detach().cpu().float()
    if isinstance(layer.input, ActivationQuantiser):
        state[f"{name}.input.scale"] = layer.input.scale.detach().cpu().float().clone()
        state[f"{name}.input.zero"] = layer.input.zero.detach().cpu().float().clone()
    return state


def _packed_weight(name: str, layer: QuantisedLayer) -> dict[str, Tensor]:
    weight, mask = layer.layer.weight.detach(), layer.mask
    bitmap = {} if mask is None else {f"{name}.mask": pack(mask.to(torch.uint8).cpu(), 1)}
    if layer.quantiser is None:
        values = weight.cpu().float().contiguous()
        return {name: values} if mask is None else {**bitmap, f"{name}.values": values[mask.cpu()]}
    codes = layer.quantiser.codes(weight)
    kept = codes if mask is None else codes[mask]
    return {**bitmap, f"{name}.codes": pack(kept.cpu(), layer.bits.weight), **_packed_grid(name, layer.quantiser)}


def _packed_grid(name: str, quantiser: WeightQuantiser) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    if quantiser.table is not None:
        state[f"{name}.table"] = quantiser.table.detach().cpu().sort().values
    if quantiser.step is not None:
        state[f"{name}.step"] = quantiser.step.detach().abs().clamp_min(SMALLEST).cpu().flatten().contiguous()
    if quantiser.offset is not None:
        state[f"{name}.offset"] = quantiser.offset.detach().cpu().flatten().contiguous()
    return state


def _plain(name: str, module: nn.Module) -> dict[str, Tensor]:
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    prefix = f"{name}." if name else ""
    return {prefix + key: t.detach().cpu().float().contiguous() for key, t in named if t.is_floating_point()}
