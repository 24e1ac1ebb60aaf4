"""What every operator costs a trained network before any tuning: top-1 of ResNet-20 / CIFAR-10 after batch-norm recalibration.

    python -m benchmarks.operators --weights cifar10_resnet20.safetensors --data DIR

One decision at a time, on all layers or channel groups alike, measured on test images. Wherever an operator comes with and
without regard to the inputs of a layer, both stand side by side.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from benchmarks import record
from evaluators.compression import CompressionEvaluator, StepOptions, frozen_teacher
from evaluators.data import limited, split
from evaluators.datasets import cifar10
from evaluators.describe import trace
from evaluators.load import load_weights
from evaluators.models.cifar_resnet import resnet20
from evaluators.saliency import rank
from evaluators.statistics import collect
from evo.registry import CRITERIA, MASK_CRITERIA, resolve
from search_spaces.codebooks import CHANNEL, TENSOR
from search_spaces.costs import costs
from search_spaces.genes import FactorOption
from search_spaces.network import Network
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Factor, Sparse, Width
from search_spaces.ranks import ranks_for

STEP = StepOptions(recalibration=256, validation=8, test=True)
TEST_IMAGES = 1000
RANKED_BY = ("random", "l1", "fisher", "gram")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    evaluator = _evaluator(arguments.weights, arguments.data)
    network = evaluator.trace.network
    figures = {"top1_uncompressed": 1 - evaluator.baseline("step2")["test_top1_error"]}
    shares = {}
    for name, plan in plans(network).items():
        figures[f"top1_{name}"] = 1 - evaluator.evaluate(plan, "step2", 0)["test_top1_error"]
        shares[name] = _shares(network, plan)
        print(f"{name:32} {figures[f'top1_{name}']:.4f}  {shares[name]}", flush=True)
    print(record.write("operators", figures, [0], {"shares": shares, "test_images": TEST_IMAGES}))


def plans(network: Network) -> dict[str, CompressionPlan]:
    """One plan per operator, by name."""
    found = {}
    for how in ("nearest", "gptq"):
        found[f"symmetric_3bit_{how}"] = _bits(network, 3, rounding=how)
        found[f"affine_group32_2bit_{how}"] = _bits(network, 2, "affine", 32, how)
    found["power_of_two_4bit"] = _bits(network, 4, "power_of_two")
    found["kmeans_3bit"] = _bits(network, 3, "kmeans", TENSOR)
    for criterion in RANKED_BY:
        found[f"width_0.75_{criterion}"] = _widths(network, criterion, False)
        found[f"width_0.75_{criterion}_compensated"] = _widths(network, criterion, True)
    for method in ("svd", "tucker2", "spatial", "cp"):
        for metric in ("weights", "inputs"):
            found[f"{method}_0.7_{metric}"] = _factors(network, method, metric)
    for how in ("nearest", "gptq"):
        found[f"svd_0.7_3bit_{how}"] = _rounded_factors(network, how)
    for name, pattern in (("2:4", (2, 4, True)), ("half", (1, 2, False)), ("quarter", (1, 4, False))):
        for criterion in MASK_CRITERIA:
            found[f"mask_{name}_{criterion}"] = _masks(network, *pattern, criterion, False)
            found[f"mask_{name}_{criterion}_compensated"] = _masks(network, *pattern, criterion, True)
    return found


def _masks(network: Network, kept: int, of: int, structured: bool, criterion: str, compensate: bool) -> CompressionPlan:
    masks = (Sparse(layer, kept, of, structured, criterion, compensate) for layer in _inner(network))
    return CompressionPlan(sparse=tuple(masks))


def _rounded_factors(network: Network, rounding: str) -> CompressionPlan:
    return replace(_factors(network, "svd", "inputs"), bits=_bits(network, 3, rounding=rounding).bits)


def _inner(network: Network) -> list[str]:
    """All layers but the first and the last."""
    return [layer.name for layer in network.layers[1:-1]]


def _bits(
    network: Network, bits: int, codebook: str = "symmetric", group: int = CHANNEL, rounding: str = "nearest"
) -> CompressionPlan:
    return CompressionPlan(bits=tuple(Bits(layer, bits, 32, codebook, group, rounding) for layer in _inner(network)))


def _widths(network: Network, criterion: str, compensate: bool) -> CompressionPlan:
    """Three quarters of the channels inside every residual block."""
    inner = [group for group in network.groups if len(group.producers) == 1]
    return CompressionPlan(widths=tuple(Width(g.name, g.size * 3 // 4, criterion, compensate) for g in inner))


def _factors(network: Network, method: str, metric: str) -> CompressionPlan:
    """Every layer but the first and last with factors of at most 0.7 of its weights."""
    found = []
    for layer in network.layers[1:-1]:
        sizes = np.array([layer.in_channels]), np.array([layer.out_channels])
        ranks, _ = ranks_for(layer, FactorOption(method, 0.7), *sizes)
        found.append(Factor(layer.name, method, tuple(int(rank) for rank in ranks[0] if rank), metric))
    return CompressionPlan(factors=tuple(found))


def _shares(network: Network, plan: CompressionPlan) -> dict[str, float]:
    cost, whole = (costs(network, of_plan(network, p)) for p in (plan, CompressionPlan()))
    return {name: round(float(cost[name][0] / whole[name][0]), 4) for name in ("macs", "bops", "size_bytes")}


def _evaluator(weights: str, data: str) -> CompressionEvaluator:
    device = torch.device("cpu")
    splits = split(limited(cifar10(data), 5000, TEST_IMAGES), 1000, 0)
    model = resnet20()
    load_weights(model, weights)
    teacher = frozen_teacher(model, device)
    images = splits.prepare(splits.train.images[:256], device)
    described = trace(teacher, images[:1])
    statistics = collect(teacher, [layer.name for layer in described.network.layers], images, seed=0)
    criteria = {name: resolve(CRITERIA, name) for name in RANKED_BY}
    ranking = rank(described, teacher, statistics, criteria)
    return CompressionEvaluator(teacher, described, ranking, splits, {"step2": STEP}, device)


if __name__ == "__main__":
    main()
