"""`evo verify`: a whole run directory passes, and any damaged file is named in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import evo, settings, write_config

from evaluators.artifacts import save_tensors
from evaluators.models.small import digits_cnn
from evo.storage.verification import safetensors_fault


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from evo import api
    from evo.config.schema import load

    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    torch.save(digits_cnn(width=8).state_dict(), folder / "weights.pt")
    config = write_config(folder / "config.yaml", settings(folder / "weights.pt"))
    api.run_config(load(config), str(folder / "run"))
    return folder / "run"


def flip(file: Path, at: float = 0.5) -> bytes:
    whole = file.read_bytes()
    data = bytearray(whole)
    data[int(len(data) * at)] ^= 0xFF
    file.write_bytes(bytes(data))
    return whole


def test_a_finished_run_is_whole(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = evo(capsys, "verify", finished, "--json")
    report = json.loads(answer.out)
    assert (answer.code, report["faults"]) == (0, [])
    assert report["checked"]["records"] == 3 and all(report["checked"].values())


def test_every_damaged_file_is_named_in_one_sentence(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [p for p in sorted(finished.rglob("*")) if p.is_file() and "figures" not in p.parts]
    assert len(files) > 8
    for file in files:
        before = flip(file)
        answer = evo(capsys, "verify", finished)
        file.write_bytes(before)
        if answer.code == 0:  # config.yaml: another value in it is another configuration, not damage
            assert file.name == "config.yaml"
            continue
        assert answer.code == 2 and file.name in answer.err, (file.name, answer.err)
        assert all(line.startswith("error: ") and "; " in line for line in answer.err.splitlines())
    assert evo(capsys, "verify", finished).code == 0


def test_a_missing_or_foreign_file_of_a_commit_is_a_fault(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = max(finished.glob("manifest-*.json"))
    before = manifest.read_text()
    raw = json.loads(before)
    raw["files"][0]["name"] = "../../secrets.txt"
    manifest.write_text(json.dumps(raw))
    assert "outside the run directory" in evo(capsys, "verify", finished).err
    manifest.write_text(before)
    assert "must hold a run.json" in evo(capsys, "verify", finished.parent).err


def test_a_bit_that_flips_inside_a_tensor_is_found(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.int8), "empty": torch.empty(0)}
    save_tensors(tmp_path / "x.safetensors", tensors)
    assert safetensors_fault((tmp_path / "x.safetensors").read_bytes()) == ""
    assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], tensors["b"])
    flip(tmp_path / "x.safetensors", at=0.99)
    assert "checksum" in safetensors_fault((tmp_path / "x.safetensors").read_bytes())
    assert "bytes instead of" in safetensors_fault((tmp_path / "x.safetensors").read_bytes()[:-1])
