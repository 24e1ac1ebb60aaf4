"""Mutated configurations and damaged run directories: one sentence and exit code 2, or a clean resume with nothing lost.

The default run takes a sample; `pytest -m slow tests/test_fuzz.py` takes all 2,000.
"""

from __future__ import annotations

import random
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import settings
from toy import ToyEvaluator, begin, rows, search

from evaluators.compression import MEASURES
from evo.config.checks import check
from evo.config.schema import parse
from evo.errors import USER_ERRORS, sentence
from evo.storage.run_directory import RunDirectory
from evo.storage.verification import verify

ODD: tuple[Any, ...] = (
    None,
    -1,
    0,
    1e308,
    float("nan"),
    "",
    "x" * 500,
    "../..",
    "a.b:c",
    ":",
    "os:system",
    [],
    {},
    [[]],
    {"a": {}},
    True,
    "1e3",
    "ü\0",
)
NEXT_STEP = re.compile(r"; \w[^;]{3,}")  # every sentence ends in what to do
SAMPLE, ALL = 200, 2000
GENERATIONS = 4


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in below for p in places(item, (*path, key)))]


def mutated(rng: random.Random) -> str:
    """A configuration with one to three changes: a value replaced, a key removed, renamed or added, or bytes of the text."""
    values = settings(None)
    for _ in range(rng.randint(1, 3)):
        *path, leaf = rng.choice(places(values)[1:])
        here: Any = values
        try:
            for key in path:
                here = here[key]
            change(here, leaf, rng)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    text = yaml.safe_dump(values, allow_unicode=True)
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = (
            text[:at]
            + rng.choice(["\t", "}", "'", ": :", "\n- ", "&x", "*x", "!!python/object:os.system", ""])
            + text[at + 1 :]
        )
    return text


def change(here: Any, leaf: Any, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.6 or isinstance(here, list):
        here[leaf] = rng.choice(ODD)
    elif kind < 0.8:
        del here[leaf]
    else:
        here[f"{leaf}s"] = here.pop(leaf) if kind < 0.9 else rng.choice(ODD)


def configurations(count: int) -> None:
    """Parsed and checked as every command does before it loads anything."""
    refused = 0
    for seed in range(count):
        text = mutated(random.Random(seed))
        try:
            check(parse(text, origin="fuzzed.yaml"), MEASURES)
        except USER_ERRORS as error:
            refused += 1
            told = sentence(error)
            assert "\n" not in told and len(told) > 20, (seed, text)
            assert NEXT_STEP.search(told), (seed, told)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}\n{text}") from error
    assert count / 4 < refused < count


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))


def cut(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def lose(file: Path, rng: random.Random) -> None:
    file.unlink()


def swap(file: Path, rng: random.Random) -> None:
    others = sorted(p for p in file.parent.iterdir() if p.is_file())
    file.write_bytes(rng.choice(others).read_bytes())


def leftovers(file: Path, rng: random.Random) -> None:
    file.with_name(file.name + ".partial").write_bytes(file.read_bytes()[:7])
    (file.parent / "evaluations").mkdir(exist_ok=True)
    (file.parent / "evaluations" / "pending-000009-00.parquet").write_bytes(b"PAR1")


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, cut, lose, swap, leftovers)


def directories(count: int, tmp: Path) -> None:
    """Damage a finished run, then go on with it: the same archive, or a refusal that names the fault."""
    whole, resumed = tmp / "whole", 0
    expected = rows(search(begin(whole), generations=GENERATIONS))
    for seed in range(count):
        rng, folder = random.Random(seed), tmp / f"damaged{seed}"
        shutil.copytree(whole, folder)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        rng.choice(DAMAGES)(rng.choice(files), rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                run = RunDirectory.open(str(folder))
                _ = run.info, run.config
                archive = rows(search(run, generations=GENERATIONS, make_evaluator=ToyEvaluator))
            except USER_ERRORS as error:
                assert "\n" not in sentence(error) and NEXT_STEP.search(sentence(error)), (seed, sentence(error))
            else:
                resumed += 1
                assert archive == expected, seed
            try:
                verify(str(folder))
            except USER_ERRORS as error:
                assert "run.json" in sentence(error), seed
        shutil.rmtree(folder)
    assert resumed > count / 3


def test_a_sample_of_mutated_configurations() -> None:
    configurations(SAMPLE)


def test_a_sample_of_damaged_run_directories(tmp_path: Path) -> None:
    directories(SAMPLE // 8, tmp_path)


@pytest.mark.slow
def test_all_mutated_configurations() -> None:
    configurations(ALL)


@pytest.mark.slow
def test_many_damaged_run_directories(tmp_path: Path) -> None:
    directories(ALL // 4, tmp_path)
