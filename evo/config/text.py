"""The text of a configuration and overrides of the command line, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be a text file in UTF-8, but got {error}; give the YAML file") from error


def values_of(text: str, overrides: Sequence[str], origin: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{origin} must be valid YAML, but got: {problem}; correct that line") from error
    if not isinstance(raw, Mapping):
        raise ValueError(
            f"{origin} must hold sections such as model and data, but got {type(raw).__name__}; see configs/"
        )
    values: dict[str, Any] = {str(k): v for k, v in raw.items()}
    for override in overrides:
        _apply(values, override)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"--set must look like budget.generations=5, but got {override!r}; write KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set must give a YAML value, but got {override!r}; quote it") from error
    *path, leaf = key.split(".")
    here = values
    for part in path:
        below = here.get(part)
        here[part] = dict(below) if isinstance(below, Mapping) else {}
        here = here[part]
    here[leaf] = value


def flattened(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and what they hold."""
    if isinstance(value, Mapping) and value:
        return [
            item for key, below in value.items() for item in flattened(below, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, value)]
