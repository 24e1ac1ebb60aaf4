"""The command line: `evo`, or `python -m evo.cli`."""

from __future__ import annotations

from evo.cli.commands import app, main

__all__ = ["app", "main"]
