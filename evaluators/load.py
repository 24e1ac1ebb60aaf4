"""Load what a configuration names: factories, weights. Every fault is one sentence."""

from __future__ import annotations

import pickle
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
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
    """Call the factory of a section. Whatever a user's own factory raises is told with its place; built-in ones tell theirs."""
    try:
        return factory(**kwargs)
    except TypeError as error:
        raise ValueError(
            f"{section}.factory {name!r} must accept {section}.kwargs, but got {dict(kwargs)!r}: {error}; "
            f"correct {section}.kwargs"
        ) from error
    except Exception as error:
        if ":" not in name:
            raise
        raise ValueError(
            f"{section}.factory {name!r} must return without an error, but got {type(error).__name__}: {error} "
            f"({_place(error)}); correct it or {section}.kwargs"
        ) from error


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def load_weights(model: nn.Module, path: str, key: str = "model.weights") -> None:
    """Fill a model from safetensors or from a state_dict saved by torch.save (read without unpickling code).

    `key` says in errors what the file is. Raises ValueError where it cannot be read or does not fit.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"{key} must name an existing file, but got {path!r}, which is none; download it or correct the path"
        )
    state = _read(file)
    expected = model.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(state) - optional)
    unexpected = sorted(set(state) - set(expected))
    wrong = sorted(n for n in set(state) & set(expected) if state[n].shape != expected[n].shape)
    if missing or unexpected or wrong:
        raise ValueError(
            f"{key} must fit the model, but got {_listed('missing', missing)}{_listed('unexpected', unexpected)}"
            f"{_listed('of another shape', wrong)}in {path!r}; use the weights of this architecture"
        )
    model.load_state_dict(state, strict=False)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        loaded = load_file(file) if file.suffix == ".safetensors" else _read_checkpoint(file)
    except Exception as error:  # of bytes that are no checkpoint, torch.load raises nearly anything
        raise ValueError(
            f"model.weights must be safetensors or a plain state_dict, but got {str(file)!r} ({_unreadable(error)}); "
            "save model.state_dict() and give that file"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"model.weights must hold tensors by name, but got {type(state).__name__} in {str(file)!r}; save model.state_dict()"
        )
    return state


def _read_checkpoint(file: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks on pickle protocols are no help to somebody with a wrong file
        return torch.load(file, map_location="cpu", weights_only=True)


def _unreadable(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to switch this protection off
        return "it holds more than tensors, or is no such file; code inside it is not run"
    return (str(error).splitlines() or ["it is empty or cut off"])[0]


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
    return f"keys {what}: {shown}; "
