"""Exports run where this project is not: each is loaded in a fresh interpreter that cannot import it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import named
from safetensors.torch import load_file
from torch import nn

from evaluators import count, standalone_loader
from evaluators import export as exporting
from evaluators.compose import compose, recalibrate
from evaluators.export import FORMATS, export
from evaluators.export.subject import Subject, Written
from evaluators.quantise import bake
from search_spaces.codebooks import TENSOR
from search_spaces.costs import costs
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Factor, Skip, Sparse, Width

MIXED = CompressionPlan(
    widths=(Width("stem", 12), Width("block1.conv1", 7)),
    skips=(Skip("block2"),),
    factors=(
        Factor("down", "tucker2", (6, 8)),
        Factor("block1.conv2", "spatial", (5,)),
        Factor("head", "tt2", (2,)),
    ),
    sparse=(Sparse("stem", 2, 4), Sparse("block1.conv1", 1, 3, structured=False)),
    bits=(
        Bits("stem", 5, 32, "kmeans", TENSOR),
        Bits("block1.conv1", 4, 8, "affine", 40),
        Bits("block1.conv2", 3, 8, "power_of_two"),
        Bits("down", 2, 8),
        Bits("head", 32, 8),
    ),
)
FLOAT = CompressionPlan(widths=MIXED.widths, factors=MIXED.factors)
PLANS = {"mixed": MIXED, "float": FLOAT, "whole": CompressionPlan()}

# Runs in isolated mode in another folder: only installed packages can be imported, and this project is refused by name.
PREAMBLE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("evo", "evaluators", "search_spaces", "cluster"):
            raise ImportError(f"the export needs {name}")
sys.meta_path.insert(0, Refuse())
import numpy as np
out, images = sys.argv[1], np.load(sys.argv[2])
"""
TORCH = """
import torch
with torch.no_grad():
    logits = model(torch.from_numpy(images)).numpy()
from torch.utils.flop_counter import FlopCounterMode
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    model(torch.from_numpy(images[:1]))
params = sum(p.numel() for p in model.parameters())
print(json.dumps({"logits": logits.tolist(), "params": params, "macs": counter.get_total_flops() // 2}))
"""
LOADERS = {
    "pytorch": "sys.path.insert(0, out)\nfrom load import load\nmodel = load(out)" + TORCH,
    "torch-export": "import torch\nmodel = torch.export.load(out + '/model.pt2').module()" + TORCH,
    "onnx": """
import onnx, onnxruntime
session = onnxruntime.InferenceSession(out + "/model.onnx", providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {session.get_inputs()[0].name: images})
params = sum(int(np.prod(t.dims)) for t in onnx.load(out + "/model.onnx").graph.initializer if len(t.dims) > 1)
print(json.dumps({"logits": logits.tolist(), "weights": params}))
""",
}


@cache
def tuned(name: str) -> nn.Module:
    net = named("digits_cnn")
    model = compose(net.model, net.trace, net.ranking, PLANS[name])
    recalibrate(model, [torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))], ranges=True)
    return model


def stated(name: str) -> dict[str, float]:
    network = named("digits_cnn").network
    return {measure: value[0] for measure, value in costs(network, of_plan(network, PLANS[name])).items()}


def in_fresh_process(format: str, out: Path, images: Path) -> dict[str, Any]:
    code = PREAMBLE + LOADERS[format]
    command = [sys.executable, "-I", "-W", "ignore", "-c", code, str(out), str(images)]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("format", "plan"), [("pytorch", "mixed"), ("torch-export", "mixed"), ("onnx", "mixed")])
def test_an_export_runs_without_this_project(tmp_path: Path, format: str, plan: str) -> None:
    module, expected = tuned(plan), stated(plan)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    np.save(tmp_path / "images.npy", images.numpy())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export(module, named("digits_cnn").example, tmp_path / "out", format, {"candidate_id": "7"}, PLANS[plan])
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)

    found = in_fresh_process(format, tmp_path / "out", tmp_path / "images.npy")
    with torch.no_grad():
        expected_logits = module.eval()(images)
    got = torch.tensor(found["logits"])
    if format == "onnx":  # also rounds where branches meet
        assert (got - expected_logits).abs().mean() < 0.05 * expected_logits.std()
    else:
        torch.testing.assert_close(got, expected_logits, rtol=1e-4, atol=1e-4)
    if format != "onnx":
        assert (found["params"], found["macs"]) == (expected["params"], expected["macs"])
        assert count.parameters(bake(copy.deepcopy(module))) == expected["params"]
    else:
        assert found["weights"] == sum(
            p.numel() for n, p in module.named_parameters() if p.dim() > 1 and n.rpartition(".")[2] == "weight"
        )
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["candidate_id"] == "7" and CompressionPlan.from_json(json.dumps(card["plan"])) == PLANS[plan]


@pytest.mark.parametrize("plan", PLANS)
def test_the_packed_weights_are_as_large_as_stated(tmp_path: Path, plan: str) -> None:
    export(tuned(plan), named("digits_cnn").example, tmp_path / "out", "pytorch", {}, PLANS[plan])
    file = tmp_path / "out" / "weights.safetensors"
    size = stated(plan)["size_bytes"]
    assert load_file(file)["packed"].numel() == size
    assert size < file.stat().st_size <= size + 80  # a header; real networks have 100 kB and more
    assert json.loads((tmp_path / "out" / "card.json").read_text())["weights_file_bytes"] == file.stat().st_size
    # The program beside it holds no weights: as large for 8 bits as for 2.
    assert (tmp_path / "out" / "graph.pt2").stat().st_size < 400_000


def test_an_export_of_another_size_than_stated_is_refused(tmp_path: Path) -> None:
    facts = {"measures": {"size_bytes": stated("mixed")["size_bytes"] * 0.95}}
    with pytest.raises(ValueError, match=r"the packed weights must take \d+ bytes, but got \d+"):
        export(tuned("mixed"), named("digits_cnn").example, tmp_path / "out", "pytorch", facts, PLANS["mixed"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "name"), [("pytorch", "out"), ("torch-export", "model.pt2"), ("onnx", "model.onnx")]
)
def test_nothing_is_overwritten(tmp_path: Path, format: str, name: str) -> None:
    out = tmp_path / name
    if format == "pytorch":
        out.mkdir()
        (out / "mine.txt").write_text("precious")
    else:
        out.write_text("precious")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must not overwrite anything, but got"):
        export(tuned("float"), named("digits_cnn").example, out, format, {}, FLOAT)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_an_export_that_differs_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(subject: Subject, folder: Path, name: str) -> Written:
        (folder / "model.pt2").write_text("wrong")
        with torch.no_grad():
            return Written(folder, lambda images: subject.baked(images) + 0.5)

    monkeypatch.setitem(exporting.FORMATS, "torch-export", wrong)
    with pytest.raises(ValueError, match="must give the network's outputs"):
        export(tuned("float"), named("digits_cnn").example, tmp_path / "out", "torch-export", {}, FLOAT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_cannot_be_exported_gets_one_sentence(tmp_path: Path, format: str) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if x.sum() > 0 else -self.layer(x)

    with pytest.raises(ValueError, match=f"must be exportable as {format}, but got") as caught:
        export(Branching(), torch.zeros(1, 4), tmp_path / "out", format, {}, CompressionPlan())
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_every_format_has_a_loader_here() -> None:
    assert set(LOADERS) == set(FORMATS)


def test_loaded_weights_lie_in_memory_as_they_did_when_they_were_measured(tmp_path: Path) -> None:
    """Sums in another order can move a rounded activation by a whole step and so change a prediction."""
    plan = CompressionPlan(widths=MIXED.widths, bits=(Bits("block1.conv2", 3, 8), Bits("down", 2, 8)))
    net = named("digits_cnn")
    module = compose(net.model, net.trace, net.ranking, plan).to(memory_format=torch.channels_last)
    recalibrate(module, [torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))], ranges=True)
    export(module.eval(), net.example, tmp_path / "out", "pytorch", {}, plan)
    loaded, baked = standalone_loader.load(tmp_path / "out"), bake(copy.deepcopy(module))
    wanted = {name: p.stride() for name, p in baked.named_parameters()}
    assert {name: p.stride() for name, p in loaded.named_parameters()} == wanted
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(images), baked(images))
