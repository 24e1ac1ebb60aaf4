"""The floors of the architecture: who may import whom, what stays light, and what never enters the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("search_spaces", "evo", "evaluators", "cluster")
TOP_FLOOR = {"evo/cli.py", "evo/api.py", "evo/build.py", "evo/doctor.py"}
HIGHER = {name: {f"{name}.{module}" for module in ("cli", "api", "build", "doctor")} for name in ("evo",)}["evo"]

ENGINE = {"numpy", "pyarrow", "moocore", "search_spaces", "evo"}
TORCH_FLOOR = {"numpy", "pyarrow", "torch", "torchvision", "safetensors", "sklearn", "PIL", "search_spaces", "evo"}
FLOORS = {
    "search_spaces": {"numpy", "search_spaces"},
    "evo": ENGINE,
    "evaluators": TORCH_FLOOR | {"evaluators", "onnx", "onnxscript", "onnxruntime"},
    "cluster": TORCH_FLOOR | {"evaluators", "cluster", "ray"},
}
# Each of these libraries is used in these files only, and mostly imported where it is needed.
ADAPTERS = {
    "deap": {"evo/selection.py"},
    "optuna": {"evo/algorithms/optuna_sampler.py"},
    "mlflow": {"evo/tracking.py"},
    "plotly": {"evo/figures.py"},
    "matplotlib": {"evo/figures.py"},
    "pydantic": {"evo/config.py"},
    "yaml": {"evo/config.py"},
    "rich": {"evo/front.py", "evo/display.py", "evo/summary.py", "evo/result.py", *TOP_FLOOR},
    "typer": {"evo/cli.py"},
}
FORBIDDEN_ANYWHERE = re.compile(r"/(?:work|home|root|Users|opt)/\w|https?://(?:\d+\.\d+\.\d+\.\d+|localhost)\b")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".cfg", "", ".typed"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, also inside functions; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def permitted(file: str, imported: str) -> bool:
    library, package = imported.split(".")[0], file.split("/")[0]
    if library in sys.stdlib_module_names:
        return True
    if file in ADAPTERS.get(library, ()):
        return True
    if file in TOP_FLOOR:
        return library in FLOORS["evaluators"] | {"cluster", "evo"}
    if any(imported == name or imported.startswith(f"{name}.") for name in HIGHER):
        return False
    return library in FLOORS[package]
