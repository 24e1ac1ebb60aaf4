"""Evolutionary search for joint pruning, quantisation and decomposition of PyTorch networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo.api import Choice, Given, Result, load, resume, search

__all__ = ["Choice", "Given", "Result", "load", "resume", "search"]


def __getattr__(name: str) -> Any:
    # The engine stays light: torch is imported only when the Python interface is used.
    if name in __all__:
        return getattr(importlib.import_module("evo.api"), name)
    raise AttributeError(f"module 'evo' has no attribute {name!r}; it offers {', '.join(__all__)}")
