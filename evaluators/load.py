"""Load what a configuration names: factories, weights. Every fault is one sentence."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

MAX_NAMED = 4


def build_model(factory: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Call a model factory. Raises ValueError where it refuses its arguments or returns something else."""
    made = call(factory, name, "model", kwargs)
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"model.factory must return a torch.nn.Module, but got {type(made).__name__} from {name!r}; correct it"
        )
    if any(p.dtype != torch.float32 for p in made.parameters()):
        raise ValueError(
            f"the model must be in float32, but got another dtype from {name!r}; call .float() in its factory"
        )
    return made


def call(factory: Callable[..., Any], name: str, section: str, kwargs: Mapping[str, Any]) -> Any:
    try:
        return factory(**kwargs)
    except TypeError as error:
        raise ValueError(
            f"{section}.factory {name!r} must accept {section}.kwargs, but got {dict(kwargs)!r}: {error}; correct {section}.kwargs"
        ) from error


def load_weights(model: nn.Module, path: str) -> None:
    """Fill a model from safetensors or from a state_dict saved by torch.save (read without unpickling code)."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"model.weights must name a file, but got {path!r}, which does not exist; download it or correct the path"
        )
    state = _read(file)
    expected = model.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(state) - optional)
    unexpected = sorted(set(state) - set(expected))
    wrong = sorted(n for n in set(state) & set(expected) if state[n].shape != expected[n].shape)
    if missing or unexpected or wrong:
        raise ValueError(
            f"model.weights must fit the model, but got {_listed('missing', missing)}{_listed('unexpected', unexpected)}"
            f"{_listed('of another shape', wrong)}in {path!r}; use the weights of this architecture"
        )
    model.load_state_dict(state, strict=False)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        loaded = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise ValueError(
            f"model.weights must be safetensors or a plain state_dict, but got {str(file)!r} ({reason}); save it as one of these"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"model.weights must hold tensors by name, but got {type(state).__name__} in {str(file)!r}; save model.state_dict()"
        )
    return state


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
    return f"keys {what}: {shown}; "
