"""A search small enough for a test of the command line: an untrained network on a few digits, one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evo.cli import main


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def evo(capsys: pytest.CaptureFixture[str], *arguments: object) -> Answer:
    """Run a command in this process; a traceback would come through as the exception that it is."""
    capsys.readouterr()
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Answer(code, captured.out, captured.err)


def settings(weights: Path | None) -> dict[str, Any]:
    return {
        "name": "small",
        "model": {"factory": "digits_cnn", "kwargs": {"width": 8}, "weights": str(weights) if weights else None},
        "data": {"factory": "digits", "validation": 60, "train_limit": 200, "test_limit": 40},
        "space": {"widths": [0.5, 1.0], "weight_bits": [4, 8, 32], "activation_bits": [32], "factors": []},
        "objectives": [{"measure": "top1_error", "reference": 1.0}, {"measure": "macs"}],
        "algorithm": {"params": {"promote": 3}, "inner": {"name": "nsga2", "params": {"population": 8}}},
        "evaluation": {
            "step1": {"images": 16},
            "step2": {"recalibration": 32, "validation": 60},
            "final": {"recalibration": 32, "tune": {"epochs": 0.1}},
        },
        "execution": {"backend": "local"},
        "budget": {"generations": 2},
        "tracking": {"tracker": "none"},
    }


def write_config(file: Path, values: Mapping[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(dict(values)))
    return file


def set_options(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]
