"""The command line as its users and scripts meet it, from a search to a network taken out."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_run import evo, set_options, settings, write_config

from evaluators.models.small import digits_cnn
from evo.candidates import Evaluation
from evo.cli import app
from evo.storage.run_directory import RunDirectory
from search_spaces.plan import CompressionPlan

PREPROCESSING = {"values": "(byte / 255 - mean) / std", "mean": [0.3], "std": [0.37]}
COMMANDS = [str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    save_file(digits_cnn(width=8).state_dict(), folder / "weights.safetensors")
    return write_config(folder / "config.yaml", settings(folder / "weights.safetensors"))


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    from evo import api
    from evo.config.schema import load

    run = config.with_name("run")
    api.run_config(load(config, ["evaluation.final.picks=[knee]"]), str(run))
    return run


def archive(run: Path) -> list[dict[str, Any]]:
    """Every evaluation but for the time and place it was made."""
    rows = map(_row, RunDirectory.open(str(run)).evaluations())
    return sorted(rows, key=lambda row: str(row["key"]))


def _row(e: Evaluation) -> dict[str, Any]:
    return {
        "key": e.candidate.key,
        "candidate": e.candidate,
        "status": e.status,
        "reason": e.reason,
        "measures": dict(e.measures),
        "weights_version": e.weights_version,
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, command, "--help")
    assert answer.code == 0 and f"Example: evo {command}" in answer.out


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, "--help")
    assert answer.code == 0 and all(command in answer.out for command in COMMANDS)
    assert "evo search configs/demo_digits.yaml" in answer.out


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["list"], ["list", "algorithms", "--json"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom evo.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pyarrow', 'matplotlib', 'plotly', 'deap', 'optuna', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True
    )
    assert done.stderr.strip() == "[]" and done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_help_and_lists_take_less_than_a_second_of_a_processor(arguments: list[str]) -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "evo.cli", *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.7


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    from evo.registry import TABLES

    everything, one = evo(capsys, "list"), evo(capsys, "list", "algorithms", "--json")
    assert all(name in everything.out for table in TABLES.values() for name in table)
    assert json.loads(one.out) == {"algorithms": dict(TABLES["algorithms"])}


@pytest.mark.parametrize("arguments", [["serch"], ["search"], ["export", "run"], ["front", "run", "--plt", "a.png"]])
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, *arguments)
    assert answer.code == 2 and "Usage: evo" in answer.err and "Traceback" not in answer.err


def test_search_prints_only_json_on_standard_output(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = evo(capsys, "search", config, "--run-dir", tmp_path / "loud", "--json", "--set", "budget.generations=1")
    quiet = evo(capsys, "search", config, "--run-dir", tmp_path / "q", "--json", "-q", "--set", "budget.generations=1")
    assert loud.code == quiet.code == 0
    assert json.loads(loud.out) == json.loads(quiet.out)
    assert quiet.err == "" and "generation 0" in loud.err and "loading digits_cnn" in loud.err


def test_search_tells_what_can_be_done_next(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, "search", config, "--run-dir", tmp_path / "run", "-q", "--set", "budget.generations=1")
    assert "Pareto front" in answer.out and "baseline" in answer.out and f"evo export {tmp_path}/run" in answer.err
    figures = {p.name for p in (tmp_path / "run/figures").iterdir()}
    assert figures == {"history.png", *(f"front.{e}" for e in ("json", "parquet", "html", "png"))}


def test_front_as_json_keeps_the_contract(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = json.loads(evo(capsys, "front", finished, "--json").out)
    assert points and len({p["candidate_id"] for p in points}) == len(points)
    for point in points:
        assert list(point["objectives"]) == ["top1_error", "macs"]
        assert point["objectives"]["macs"] == point["measures"]["macs"]
        assert {"params", "size_bytes", "bops", "cross_entropy"} <= set(point["measures"])
        plan = json.dumps(point["plan"])
        assert json.loads(CompressionPlan.from_json(plan).to_json()) == point["plan"]
    finals = [p["final"] for p in points if p["final"] is not None]
    assert len(finals) == 1 and 0 <= finals[0]["test_top1_error"] <= 1


def test_front_for_people(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, "front", finished)
    assert answer.code == 0 and answer.err == ""
    assert all(text in answer.out for text in ("Pareto front", "Last step", "test top-1", "Kendall's tau"))
    for ending, start in (("html", b"<!doctype html"), ("png", b"\x89PNG")):
        file = tmp_path / f"new/front.{ending}"
        assert evo(capsys, "front", finished, "--plot", file).code == 0
        assert file.read_bytes().lstrip()[: len(start)] == start


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (["--out", "net"], {"graph.pt2", "weights.safetensors", "layout.json", "load.py", "card.json"}),
        (["--out", "net", "--format", "torch-export"], {"model.pt2", "card.json"}),
        (["--out", "net/small.onnx", "--pick", "macs<=0.9x", "--check-data"], {"small.onnx", "small.card.json"}),
    ],
    ids=["pytorch", "torch-export", "onnx"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_export(
    options: list[str],
    files: set[str],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = evo(capsys, "export", finished, *options)
    assert answer.code == 0, answer.err
    assert {p.name for p in (tmp_path / "net").iterdir()} == files
    (file,) = (tmp_path / "net").glob("*card.json")
    card = json.loads(file.read_text())
    front = {p["candidate_id"]: p for p in json.loads(evo(capsys, "front", finished, "--json").out)}
    assert card["latency"]["milliseconds"] > 0 and card["latency"]["low"] <= card["latency"]["ratio"]
    point = front[card["candidate_id"]]
    # The knee was finished at the last step, and that network is the one to export.
    assert card["measures"] == (point["measures"] if point["final"] is None else point["final"])
    errors = {"search_validation": card["measures"]["top1_error"], "test": card["measures"].get("test_top1_error")}
    stated = {name: split["top1"] for name, split in card["accuracy"].items()}
    assert stated == {name: 1 - error for name, error in errors.items() if error is not None}
    assert card["accuracy"].keys() == {"search_validation"} | ({"test"} if card["step"] == "final" else set())
    if "--check-data" in options:
        assert card["file"].keys() == stated.keys()
        for name, split in card["file"].items():
            assert split["images"] == card["accuracy"][name]["images"] > 0
            assert split["top1"] == pytest.approx(stated[name], abs=0.03)  # sums of branches are rounded in the file
    else:
        assert "file" not in card
    assert card["preprocessing"] == PREPROCESSING
    assert card["input"] == [1, 8, 8] and card["plan"] == point["plan"] and card["candidate_id"] in answer.err


def test_resume_extends_and_changes_nothing_before(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {row["key"]: row for row in archive(run)}
    answer = evo(capsys, "resume", run, "--set", "budget.generations=4", "-q", "--json")
    after = {row["key"]: row for row in archive(run)}
    assert answer.code == 0 and json.loads(answer.out)
    assert all(after[key] == row for key, row in before.items())
    assert max(row["candidate"].generation for row in after.values()) == 3
    assert "generations: 4" in (run / "config.yaml").read_text()


def test_doctor(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(evo(capsys, "doctor", config, "--json").out)
    assert report["genes"] > 10 and report["costs"]["params"] > 0
    assert report["layers"][0]["name"] == "stem" and len(report["blocks"]) == 2
    text = evo(capsys, "doctor", config, "--set", "space.keep=[head]")
    assert text.code == 0 and "block1.conv1" in text.out and "can be skipped" in text.out


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_results_do_not_depend_on_backend_or_workers(
    config: Path, finished: Path, one_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = archive(finished)
    for workers in (1, 2):
        options = set_options(
            ["execution.backend=ray", f"execution.workers={workers}", "evaluation.final.picks=[knee]"]
        )
        answer = evo(capsys, "search", config, "--run-dir", tmp_path / str(workers), "-q", *options)
        assert answer.code == 0, answer.err
        assert archive(tmp_path / str(workers)) == expected
