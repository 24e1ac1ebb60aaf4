"""Networks with several inputs and outputs: searched, exported with the inputs and outputs that their author gave them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import settings
from torch import Tensor, nn

import evo
from evaluators import count
from evaluators.boundary import bare, bound, boundary_of, joined
from evaluators.datasets import digits, from_factory
from evaluators.standalone_loader import load


class TwoEyes(nn.Module):
    """An image, and numbers that go with it: two branches that meet; logits beside what they were made of."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.numbers = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.row = nn.Embedding(8, 16)
        self.head = nn.Linear(80, 10)

    def forward(self, image: Tensor, numbers: Tensor, darkest: Tensor) -> dict[str, Tensor]:
        seen = torch.cat([self.eye(image).flatten(1), self.numbers(numbers) + self.row(darkest)[:, 0]], dim=1)
        return {"features": seen, "logits": self.head(seen)}


class Items(torch.utils.data.Dataset[Any]):
    """Digits: the image, its row sums, and which row is darkest; in a dict of another order than the model's arguments."""

    def __init__(self, test: bool, named: bool = True) -> None:
        data = digits().test if test else digits().train.head(200)
        self.images, self.labels, self.named = data.images.float() / 255, data.labels, named

    def __len__(self) -> int:
        return 40 if len(self.labels) > 200 else len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        rows = image.sum((0, 2))
        found = {"numbers": rows, "image": image, "darkest": rows.argmax()[None]}
        inputs = found if self.named else (image, rows, found["darkest"])
        return inputs, int(self.labels[index])


def network() -> TwoEyes:
    torch.manual_seed(0)
    return TwoEyes().eval()


def test_rows_are_taken_apart_as_they_were_joined() -> None:
    items = Items(test=True)
    model = network()
    samples = [items[i][0] for i in range(4)]
    rows, parts = joined(samples)
    arguments = [torch.stack([sample[name] for sample in samples]) for name in ("image", "numbers", "darkest")]
    with torch.no_grad():
        expected = model(*arguments)
        wrapped = bound(copy.deepcopy(model), parts, "logits")
        torch.testing.assert_close(wrapped(rows), expected["logits"], rtol=0, atol=0)
        torch.testing.assert_close(bare(wrapped)(*arguments), expected, rtol=0, atol=0)
        torch.testing.assert_close(copy.deepcopy(wrapped)(rows), expected["logits"], rtol=0, atol=0)
    assert rows.shape == (4, 8 + 64 + 1)
    assert [tuple(t.shape) for t in boundary_of(wrapped).inputs(rows)] == [(4, 1, 8, 8), (4, 8), (4, 1)]
    assert wrapped.state_dict().keys() == model.state_dict().keys() and bare(model) is model


def test_what_does_not_fit_is_told() -> None:
    _, parts = joined([{"picture": torch.zeros(1, 8, 8), "numbers": torch.zeros(8)}])
    with pytest.raises(ValueError, match=r"must be the first arguments of the model, .*'image'.* but got .*'picture'"):
        bound(network(), parts, None)
    with pytest.raises(ValueError, match="the inputs of all samples must have one form"):
        joined([(torch.zeros(2), torch.zeros(3)), (torch.zeros(2), torch.zeros(4))])
    with pytest.raises(ValueError, match=r"model.output must be one of \['features', 'logits'\], but got 'logit'"):
        bound(network(), (), "logit")(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8), torch.zeros(1, 1).long())
    with pytest.raises(ValueError, match=r"model.output must be one of \[\], but got 0"):
        bound(nn.Flatten(), (), 0)(torch.zeros(1, 8))
    pair = from_factory((Items(test=False, named=False), Items(test=True, named=False)))
    assert [part.shape for part in pair.inputs] == [(1, 8, 8), (8,), (1,)] and pair.train.images.shape == (200, 73)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_search_over_several_inputs_and_outputs(tmp_path: Path) -> None:
    import onnxruntime

    data = (Items(test=False), Items(test=True))
    sections = {key: value for key, value in settings(None).items() if key not in ("name", "model", "data")}
    sections["budget"] = {"generations": 1}
    sections["latency"] = {"repeats": 5}
    with pytest.raises(ValueError, match=r"model.output must say which .* a dict with \['features', 'logits'\]"):
        evo.search(network(), data, run_dir=tmp_path / "none", validation=60, **sections)
    result = evo.search(network(), data, run_dir=tmp_path / "run", validation=60, output="logits", **sections)
    assert result.front and not [e.reason for e in result.evaluations if not e.completed]
    choice = result.pick("macs<=0.9x")
    items = [Items(test=True)[i][0] for i in range(5)]
    arguments = [torch.stack([item[name] for item in items]) for name in ("image", "numbers", "darkest")]

    file = choice.export(tmp_path / "net.onnx", check_data=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["image", "numbers", "darkest"]
    feeds = dict(zip(("image", "numbers", "darkest"), (a.numpy() for a in arguments), strict=True))
    features, logits = session.run(None, feeds)
    card = json.loads((tmp_path / "net.card.json").read_text())
    assert card["inputs"] == [[8], [1, 8, 8], [1]] and card["latency"]["milliseconds"] > 0
    assert card["file"]["search_validation"]["top1"] == pytest.approx(
        card["accuracy"]["search_validation"]["top1"], abs=0.05
    )

    module = load(choice.export(tmp_path / "net"))
    with torch.no_grad():
        answer = module(*arguments)
    assert answer.keys() == {"features", "logits"} and answer["features"].shape == features.shape
    assert np.abs(answer["logits"].numpy() - logits).mean() < 0.05 * logits.std()
    assert count.parameters(module) == choice.point.measures["params"]
