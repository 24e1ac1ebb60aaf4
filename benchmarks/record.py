"""Write a measurement with what is needed to judge it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(
    name: str,
    figures: Mapping[str, float],
    seeds: Sequence[int],
    more: Mapping[str, Any] | None = None,
    module: str = "",
) -> Path:
    """benchmarks/results/NAME.json: command, date, commit, machine, seeds, figures and further tables. `module` where the
    command is not called like the file."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    content = {
        "command": "python -m benchmarks." + (module or name),
        "arguments": [a for a in sys.argv[1:] if not a.startswith("/")],
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "seeds": list(seeds),
        "figures": dict(figures),
        **(more or {}),
    }
    file.write_text(json.dumps(content, indent=2) + "\n")
    return file


def kept(file: Path, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What this file holds, else what is measured now and written there."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measure(), indent=2))
    known: dict[str, Any] = json.loads(file.read_text())
    return known


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()
