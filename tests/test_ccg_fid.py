"""FID by the library, against its formula on the features; weights are random, since the real ones must be downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_ccg_search import settings, study_of

from evaluators.gan import fid
from evaluators.gan.fid import Pixels, frechet_distance
from evo.candidates import FINAL
from evo.config.schema import validate
from evo.studies.doctor import examine

CPU = torch.device("cpu")
library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Inception network as the library makes it, before it has read any weights; its first features, which are few."""
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        made = library.FeatureExtractorInceptionV3("random", ["64"])
    torch.save(made.state_dict(), tmp_path / "inception.pth")
    monkeypatch.setattr(fid, "FEATURES", "64")
    return tmp_path / "inception.pth"


def by_formula(made: torch.Tensor, real: torch.Tensor, weights: Path) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2); the last trace is the sum of singular values of X X'^T, both centred and scaled."""
    network = library.FeatureExtractorInceptionV3("again", ["64"], feature_extractor_weights_path=str(weights))
    x, y = (network(Pixels(images).images)[0].double().numpy() for images in (made, real))
    centred = [(f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y)]
    spread = sum(float(np.square(f).sum()) for f in centred)
    common = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + spread - 2 * common)


def test_the_distance_is_that_of_the_formula(weights: Path) -> None:
    made, real = torch.rand(5, 1, 12, 12), torch.rand(6, 1, 12, 12).square()
    expected = by_formula(made, real, weights)
    assert frechet_distance(made, real, weights, CPU) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(real, real, weights, CPU) < 1e-3 * expected


def test_the_last_step_measures_it_where_the_weights_are_named(weights: Path) -> None:
    values = settings(weights.parent)
    values["data"]["test_limit"] = 6
    values["gan"]["inception"] = str(weights)
    study = study_of(validate(values))
    measures = study.evaluator.baseline(FINAL)
    assert measures["test_fid"] == pytest.approx((measures["test_fid_a_to_b"] + measures["test_fid_b_to_a"]) / 2)
    made, real = study.splits.a.test.images, study.splits.b.test.images
    with torch.no_grad():
        made = study.teacher.a_to_b(study.splits.prepare(made, CPU))
    expected = by_formula(made * 0.5 + 0.5, real / 255, weights)
    assert measures["test_fid_a_to_b"] == pytest.approx(expected, rel=1e-3)


def test_what_is_missing_is_said_before_any_training(tmp_path: Path) -> None:
    values = settings(tmp_path)
    assert "gan.inception" in examine(validate(values))["missing"][0]
    values["gan"]["inception"] = str(tmp_path / "none.pth")
    for refuse in (study_of, examine):
        with pytest.raises(ValueError, match=r"gan\.inception must be a file, but got .*none\.pth.*release 0\.2\.0"):
            refuse(validate(values))
    assert not (tmp_path / "baseline").exists()
