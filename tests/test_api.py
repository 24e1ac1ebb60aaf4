"""The Python interface, with a network and data handed over as objects."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

import evo
from evaluators.datasets import digits
from evaluators.models.small import digits_cnn
from evo.result import Result

SECTIONS: dict[str, Any] = {
    "space": {"widths": [0.5, 1.0], "weight_bits": [4, 8], "activation_bits": [32], "factors": []},
    "algorithm": {"params": {"promote": 3}, "inner": {"name": "nsga2", "params": {"population": 8}}},
    "evaluation": {"step1": {"images": 16}, "step2": {"recalibration": 32, "validation": 60}},
    "execution": {"backend": "local"},
    "budget": {"generations": 2},
    "tracking": {"tracker": "none"},
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return digits_cnn(width=8)


@pytest.fixture(scope="module")
def data() -> tuple[TensorDataset, TensorDataset]:
    whole = digits()
    train, test = whole.train.head(200), whole.test.head(40)
    return tuple(TensorDataset(part.images.float() / 255, part.labels) for part in (train, test))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def result(model: nn.Module, data: Any, tmp_path_factory: pytest.TempPathFactory) -> Result:
    run_dir = tmp_path_factory.mktemp("api") / "run"
    return evo.search(model, data, ["top1_error", "macs"], run_dir, validation=60, **SECTIONS)


def test_public_names_are_not_hidden_by_modules() -> None:
    for module in pkgutil.walk_packages(evo.__path__, "evo."):
        importlib.import_module(module.name)
    assert all(callable(getattr(evo, name)) for name in evo.__all__)


def test_a_search_gives_a_front(result: Result, model: nn.Module) -> None:
    assert result.front and set(result.front[0].objectives) == {"top1_error", "macs"}
    assert result.pick("knee").point in result.front
    assert model.training and all(p.requires_grad for p in model.parameters())  # the user's object is left as it was


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_pick_is_exported(result: Result, data: Any, tmp_path: Path) -> None:
    import onnxruntime

    choice = result.pick("knee")
    written = choice.export(tmp_path / "model.onnx")
    assert written == tmp_path / "model.onnx"
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    images = data[1][:7][0].numpy()
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    assert logits.shape == (7, 10) and np.isfinite(logits).all()
    assert json.loads((tmp_path / "model.card.json").read_text())["candidate_id"] == choice.point.candidate_id


def test_a_result_shows_itself(result: Result) -> None:
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(result)
    text, page = console.export_text(), result._repr_html_()
    for point in result.useful:
        assert point.candidate_id in text and point.candidate_id in page
    assert "baseline" in text and page.startswith("<p>")
    assert len(repr(result)) > 0


def test_objects_must_be_handed_over_again(result: Result, model: nn.Module, data: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs its model object again, .*evo\.resume\(.*given=evo\.Given\(model="):
        evo.resume(result.run_dir)
    with pytest.raises(ValueError, match="needs its data object again"):
        evo.resume(result.run_dir, given=evo.Given(model=model))
    with pytest.raises(ValueError, match=r"needs its model object again, .*evo\.load\("):
        evo.load(result.run_dir).pick("knee").export(tmp_path / "net")
    given = evo.Given(model, data)
    assert evo.load(result.run_dir, given).pick("knee").export(tmp_path / "net") == tmp_path / "net"


def test_resume_continues_with_the_weights_of_the_start(result: Result, data: Any) -> None:
    torch.manual_seed(1)
    given = evo.Given(digits_cnn(width=8), data)  # the same architecture with other weights
    longer = evo.resume(result.run_dir, ["budget.generations=3"], given=given)
    before = {e.candidate.key: e.measures for e in result.evaluations}
    after = {e.candidate.key: e.measures for e in longer.evaluations}
    assert before.items() <= after.items() and len(after) > len(before)
    assert longer.baseline == result.baseline


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spaces": {}}, "every key of evo.search must be known, but got spaces=.*did you mean 'space'"),
        ({"objectives": ["mac"]}, "objectives.0.measure must be one of .*did you mean 'macs'"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"data": (torch.zeros(3),)}, "a pair"),
        ({"data": ([], [])}, "(image tensor, label)"),
        ({"model": 5}, "must be given a torch.nn.Module, .* but got model of type int"),
        ({"validation": 900}, "validation=900"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str, model: nn.Module, data: Any, tmp_path: Path) -> None:
    arguments = {"model": model, "data": data, "run_dir": tmp_path / "run", **SECTIONS, **change}
    with pytest.raises(ValueError, match=message):
        evo.search(**arguments)
    assert not (tmp_path / "run").exists()
