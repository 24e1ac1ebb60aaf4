"""What a shell offers after <Tab>: names of the registries, keys of a configuration, run directories, points of a front."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from evo.registry import (
    ALGORITHMS,
    BACKENDS,
    CODEBOOKS,
    CRITERIA,
    DATASETS,
    FACTORISATIONS,
    MEASURES,
    MODELS,
    RANGES,
    ROUNDINGS,
    RUNTIMES,
    TABLES,
    TRACKERS,
    WRAPPERS,
)

RUNS, CONFIGS = "runs", "configs"  # folders looked into where nothing was typed yet
FORMATS = ("pytorch", "torch-export", "onnx")
SECTIONS_DEEP = 4  # keys of a configuration have at most so many parts; an inner algorithm could go on for ever
NAMES: Mapping[str, Iterable[str]] = {
    "model.factory": MODELS,
    "data.factory": DATASETS,
    "algorithm.name": (*ALGORITHMS, *WRAPPERS),
    "algorithm.inner.name": ALGORITHMS,
    "latency.runtime": RUNTIMES,
    "execution.backend": BACKENDS,
    "tracking.tracker": TRACKERS,
    "space.criteria": CRITERIA,
    "space.codebooks": CODEBOOKS,
    "space.roundings": ROUNDINGS,
    "space.ranges": RANGES,
    "space.factors": FACTORISATIONS,
}
LISTS = "space."  # keys below it take lists


def configs(incomplete: str) -> list[str]:
    """YAML files and folders on the way to one."""
    found = [*_paths(incomplete), *(Path(CONFIGS).glob("*.yaml") if not incomplete else ())]
    return [_shown(path) for path in found if path.is_dir() or path.suffix in (".yaml", ".yml")]


def run_dirs(incomplete: str) -> list[str]:
    """Directories that hold a search, and folders on the way to one."""
    found = [*_paths(incomplete), *(sorted(Path(RUNS).glob("*")) if not incomplete else ())]
    return [str(path) if (path / "run.json").is_file() else _shown(path) for path in found if path.is_dir()]


def _paths(incomplete: str) -> list[Path]:
    folder, _, start = incomplete.rpartition("/")
    here = Path(f"{folder}/" if "/" in incomplete else ".")
    return sorted(p for p in here.glob(f"{start}*") if not p.name.startswith(".")) if here.is_dir() else []


def _shown(path: Path) -> str:
    return f"{path}/" if path.is_dir() else str(path)


def picks(ctx: typer.Context, incomplete: str) -> list[str]:
    """ "knee" and the members of the front of the run that the command line names."""
    # An option that still lacks its value leaves the arguments before it where they were.
    run_dir = str(next(iter(ctx.args), ctx.params.get("run_dir")))
    file = Path(run_dir, "figures", "front.json")
    points = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return _starting(["knee", *(point["candidate_id"] for point in points)], incomplete)


def tables(incomplete: str) -> list[str]:
    return _starting(TABLES, incomplete)


def models(incomplete: str) -> list[str]:
    return _starting(MODELS, incomplete)


def datasets(incomplete: str) -> list[str]:
    return _starting(DATASETS, incomplete)


def measures(incomplete: str) -> list[str]:
    return _starting(MEASURES, incomplete)


def formats(incomplete: str) -> list[str]:
    return _starting(FORMATS, incomplete)


def overrides(incomplete: str) -> list[str]:
    """KEY= for every key of a configuration, then the values that it may take, where they have names."""
    from evo.config.schema import Config

    key, equals, _ = incomplete.partition("=")
    if not equals:
        return _starting((f"{name}=" for name, _ in _keys(Config, "")), incomplete)
    kinds = dict(_keys(Config, ""))
    values = NAMES.get(key, _values(kinds[key]) if key in kinds else ())
    return _starting(
        (f"{key}=[{v}]" if key.startswith(LISTS) and key in NAMES else f"{key}={v}" for v in values), incomplete
    )


def _keys(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their types."""
    for name, field in section.model_fields.items():
        below = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
        if below and get_origin(field.annotation) is not list:
            if prefix.count(".") + 1 < SECTIONS_DEEP:
                yield from _keys(below[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


def _is_section(kind: Any) -> bool:
    from evo.config.schema import Section

    return isinstance(kind, type) and issubclass(kind, Section)


def _values(kind: Any) -> tuple[str, ...]:
    if kind is bool:
        return ("true", "false")
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
