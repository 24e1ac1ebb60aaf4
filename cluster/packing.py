"""What a submitted search takes along: this project, the user's own modules, the configuration and its weights."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.ray_session import import_paths
from evo.config.schema import Config

PACKAGES = ("search_spaces", "evo", "evaluators", "cluster")
LIMIT_BYTES = 100 * 2**20  # of all that travels; Ray itself stops at a few hundred MB
SUFFIXES = (".py", ".json", ".yaml", ".yml", ".txt", ".csv", ".toml")
LARGEST_FILE = 2**20
LEFT_OUT = re.compile(r"\..*|__pycache__|runs|mlruns|mlartifacts|build|dist|node_modules|.*\.egg-info|tests?")
CONFIG_FILE = "config.yaml"
_FACTORY = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")


def pack(config: Config, folder: Path) -> None:
    """Fill an empty folder with all that the configuration needs, itself as config.yaml. Raises ValueError where that is
    too large or a module is missing."""
    root = Path(__file__).resolve().parents[1]
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in sorted(own_modules(config)):
        _pack_project(module, folder)
    (folder / CONFIG_FILE).write_text(_with_weights(config, folder).to_yaml())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LIMIT_BYTES:
        raise ValueError(
            f"what is submitted must be at most {LIMIT_BYTES // 2**20} MB, but got {size / 2**20:.0f} MB; put weights on storage "
            "that the cluster reads and name that path, or submit from a smaller folder"
        )


def own_modules(config: Config) -> set[str]:
    """Top-level modules that factories of the configuration name and that are not installed packages."""
    names = {match[1] for text in _texts(config.model_dump(mode="json")) if (match := _FACTORY.fullmatch(text))}
    return {name for name in names - set(PACKAGES) if _source(name) is not None}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)


def _source(module: str) -> Path | None:
    """The folder that a module is imported from; None for installed ones, which the cluster must have itself."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ValueError(
            f"every factory must be importable where you submit, but got module={module!r}, which is not; "
            "submit from the folder that holds it"
        )
    if spec.origin is None:  # a folder without __init__.py
        found = next(iter(spec.submodule_search_locations or ()), None)
        folder = Path(found).parent if found else None
    else:
        file = Path(spec.origin)
        folder = file.parent.parent if spec.submodule_search_locations else file.parent
    return folder if folder is not None and import_paths([str(folder)]) else None


def _pack_project(module: str, folder: Path) -> None:
    """Everything small beside the module: it may import its neighbours."""
    source = _source(module)
    if source is None:
        return
    for parent, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not LEFT_OUT.fullmatch(name))
        if Path(parent) == source:
            folders[:] = [name for name in folders if name not in PACKAGES]
        for file in (Path(parent, name) for name in sorted(files) if name.endswith(SUFFIXES)):
            target = folder / file.relative_to(source)
            if file.stat().st_size <= LARGEST_FILE and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def _with_weights(config: Config, folder: Path) -> Config:
    """The configuration with weights that travel along, where they are a file here."""
    if config.model.weights is None or not Path(config.model.weights).is_file():
        return config
    file = Path(config.model.weights)
    (folder / "weights").mkdir()
    shutil.copyfile(file, folder / "weights" / file.name)
    model = config.model.model_copy(update={"weights": f"weights/{file.name}"})
    return config.model_copy(update={"model": model})
