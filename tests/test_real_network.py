"""The pretrained ResNet-20 on real CIFAR-10 images, where the data are at hand ($EVO_TEST_DATA or ../shared/data)."""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evaluators.compression import CompressionEvaluator, StepOptions, frozen_teacher
from evaluators.data import ImageData, Images, Splits, split
from evaluators.datasets import IMAGENET_MEAN, IMAGENET_STD
from evaluators.describe import trace
from evaluators.gradients import collect_gradients
from evaluators.load import load_weights
from evaluators.models.cifar_resnet import resnet20
from evaluators.recovery import Budget, classify
from evaluators.saliency import fisher, l1, rank
from evaluators.statistics import collect
from evaluators.step1 import build_tables
from evo.archive import kendall_tau
from search_spaces.options import SpaceOptions, build_space
from search_spaces.plan import Bits, CompressionPlan

DATA = Path(os.environ.get("EVO_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs CIFAR-10 and weights in $EVO_TEST_DATA")
CPU = torch.device("cpu")


def images(part: str, count: int) -> Images:
    table = pq.read_table(DATA / "cifar10" / f"{part}.parquet").slice(0, count)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in table["image"].to_pylist()])
    return Images(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.tensor(table["label"].to_pylist()))


@cache
def splits() -> Splits:
    data = ImageData(images("train-1", 1500), images("test", 1000), IMAGENET_MEAN, IMAGENET_STD, flip=True, pad=4)
    return split(data, 500, seed=0)


@cache
def evaluator() -> CompressionEvaluator:
    model = resnet20()
    load_weights(model, str(DATA / "weights" / "cifar10_resnet20.safetensors"))
    teacher = frozen_teacher(model, CPU)
    described = trace(teacher, splits().prepare(splits().train.images[:1], CPU))
    statistics = collect(teacher, [x.name for x in described.network.layers], _prepared(128), seed=0)
    ranking = rank(described, teacher, statistics, {"fisher": fisher, "l1": l1})
    steps = {"step2": StepOptions(recalibration=256, validation=500, tune=Budget())}
    return CompressionEvaluator(teacher, described, ranking, splits(), steps, CPU)


def _prepared(count: int) -> torch.Tensor:
    return splits().prepare(splits().train.images[:count], CPU)


def test_the_pretrained_network_is_the_published_one() -> None:
    measures = evaluator().baseline("step2")
    assert (measures["params"], measures["macs"]) == (269_722, 40_551_040)
    error, _ = classify(evaluator().teacher, splits(), splits().test, CPU)
    assert 0.06 <= error <= 0.11, "91.73 % on the whole test split"


def test_eight_bits_everywhere_cost_next_to_nothing_and_two_bits_ruin_the_network() -> None:
    layers = [layer.name for layer in evaluator().trace.network.layers]
    errors = {}
    for bits in (32, 8, 2):
        plan = CompressionPlan(bits=tuple(Bits(name, bits, 8 if bits < 32 else 32) for name in layers))
        module = evaluator().realise(plan, "step2", seed=0)
        errors[bits] = classify(module, splits(), splits().test, CPU)[0]
    assert errors[32] <= classify(evaluator().teacher, splits(), splits().test, CPU)[0] + 0.01, (
        "recalibration costs nothing"
    )
    assert errors[8] <= errors[32] + 0.01
    assert errors[2] > errors[8] + 0.2


def test_the_closed_form_ranks_real_networks() -> None:
    network = evaluator().trace.network
    options = SpaceOptions(activation_bits=(8,), factors=(), skip_blocks=False, keep=("conv1", "linear"))
    space = build_space(network, options)
    teacher = evaluator().teacher
    statistics = collect(teacher, [layer.name for layer in network.layers], _prepared(128), seed=0)
    gradients = collect_gradients(teacher, network, statistics, _prepared(128), seed=1)
    tables = build_tables(space, teacher, evaluator().trace, statistics, gradients, evaluator().ranking)
    rng = np.random.default_rng(3)
    genomes = [space.sample(rng) for _ in range(24)]
    predicted = tables.score(np.array(genomes))["predicted_loss_increase"]
    entropy = [evaluator().evaluate(space.decode(g), "step2", seed=0)["cross_entropy"] for g in genomes]
    found = kendall_tau(predicted, np.array(entropy))
    assert found.low > 0.5, f"tau = {found.tau:.2f}"
