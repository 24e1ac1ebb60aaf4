"""The first configuration: what `evo init` writes is what `evo search` and `evo doctor` take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from small_run import evo

from evo.config.schema import Config, load
from evo.registry import TABLES


def photos(folder: Path, train: int = 10) -> Path:
    """Two classes of tiny images, as an image folder."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", 4)):
        for label, name in enumerate(("cats", "dogs")):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * label, 100 * label + 150, (24, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def test_what_init_writes_is_accepted_and_says_the_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new/mine.yaml"
    options = ("--model", "digits_cnn", "--kwarg", "width=8", "--train", "0.5", "--data", "digits")
    answer = evo(capsys, "init", file, *options, "--objective", "top1_error", "--objective", "macs")
    assert answer.code == 0 and answer.out == "" and f"evo doctor {file}" in answer.err
    written = load(file)
    expected = {
        "name": "mine",
        "model": {"factory": "digits_cnn", "kwargs": {"width": 8}, "pretrain": {"epochs": 0.5}},
        "data": {"factory": "digits", "validation": 400},
        "objectives": [{"measure": "top1_error"}, {"measure": "macs"}],
        "evaluation": {"final": {"picks": ["knee"]}},
    }
    assert written == Config.model_validate(expected)
    text = file.read_text()
    assert "# channel counts are multiples of this" in text and "evo search" in text.splitlines()[2]
    assert json.loads(evo(capsys, "doctor", file, "--json").out)["genes"] > 0


def test_a_folder_of_images_and_a_torchvision_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, file = photos(tmp_path / "photos"), tmp_path / "mine.yaml"
    options = ("--model", "torchvision.models:squeezenet1_1", "--train", "1")
    answer = evo(capsys, "init", file, *options, "--data", "image_folder", "--root", root, "--size", "32")
    assert answer.code == 0
    config = load(file)
    assert config.data.validation == 4 and config.data.kwargs == {"root": str(root), "size": 32}
    assert config.model.kwargs == {"num_classes": 2}  # as many as the folder has
    report = json.loads(evo(capsys, "doctor", file, "--json").out)
    assert len(report["layers"]) == 26 and report["groups"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--data", "digits"], "no --model"),
        (["--model", "digits_cnn"], "no --weights or --train"),
        (["--model", "digits_cnn", "--train", "1"], "no --data"),
        (["--model", "digits_cnn", "--train", "1", "--data", "cifar10"], "no --root"),
        (["--model", "digit_cnn", "--train", "1", "--data", "digits"], "did you mean 'digits_cnn'"),
        (["--model", "digits_cnn", "--train", "1", "--data", "image_folder", "--root", "."], "train/CLASS/*.jpg"),
        (["--model", "digits_cnn", "--kwarg", "width", "--train", "1", "--data", "digits"], "NAME=VALUE"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    options: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = evo(capsys, "init", "new.yaml", *options)
    assert answer.code == 2 and part in answer.err and len(answer.err.splitlines()) == 1, answer.err
    assert not (tmp_path / "new.yaml").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("precious")
    answer = evo(capsys, "init", file, "--model", "digits_cnn", "--train", "1", "--data", "digits")
    assert answer.code == 2 and "--force" in answer.err and file.read_text() == "precious"


def test_questions_are_asked_where_somebody_can_answer(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from evo.cli import app
    from evo.cli import starting as cli_starting

    answers = iter(["digits_cnn", "2", "digits"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_starting.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
        patch.setattr(cli_starting.typer, "prompt", lambda question, err: next(answers))
        cli_starting.init(tmp_path / "asked.yaml")
    config = load(tmp_path / "asked.yaml")
    assert config.model.pretrain is not None and config.model.pretrain.epochs == 2 and config.data.factory == "digits"
    assert CliRunner().invoke(app, ["init", "--help"]).exit_code == 0


def test_reference_names_every_key_and_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = evo(capsys, "reference").out
    assert all(f"| `{name}` |" in text for table in TABLES.values() for name in table)
    flat = Config.model_validate({"model": {"factory": "m"}, "data": {"factory": "d"}}).flat()
    keys = [
        key
        for key in flat
        if key not in ("model.kwargs", "data.kwargs", "algorithm.params") and "objectives" not in key
    ]
    assert not [key for key in keys if f"| `{key}` |" not in text]


def test_schema_is_what_an_editor_needs(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(evo(capsys, "reference", "--schema").out)
    assert schema["type"] == "object" and schema["additionalProperties"] is False
    assert schema["properties"].keys() == Config.model_fields.keys()
    assert (
        yaml.safe_load((Path(__file__).parents[1] / "configs/demo_digits.yaml").read_text()).keys()
        <= schema["properties"].keys()
    )
