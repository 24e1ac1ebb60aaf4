"""What the card of an export says of accuracy, split by split."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evaluators.compression import CompressionEvaluator
from evaluators.data import Images
from evaluators.export.subject import Forward
from evaluators.recovery import classify

VALIDATION, TEST = "search_validation", "test"
MEASURE_OF_SPLIT = {VALIDATION: "top1_error", TEST: "test_top1_error"}


def accuracy_by_split(
    evaluator: CompressionEvaluator, step: str, measures: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Top-1 accuracy (0..1) of the network as measured, and on how many images; the test split after the last step only."""
    return {
        name: {"top1": 1 - measures[MEASURE_OF_SPLIT[name]], "images": len(split)}
        for name, split in _splits(evaluator, step).items()
        if MEASURE_OF_SPLIT[name] in measures
    }


def accuracy_of_file(evaluator: CompressionEvaluator, step: str, run: Forward) -> dict[str, dict[str, float]]:
    """The same of an exported file, from its own answers."""
    found = {}
    for name, split in _splits(evaluator, step).items():
        error, _ = classify(_Loaded(run), evaluator.splits, split, torch.device("cpu"))
        found[name] = {"top1": 1 - error, "images": len(split)}
    return found


def _splits(evaluator: CompressionEvaluator, step: str) -> dict[str, Images]:
    options = evaluator.steps[step]
    tested = {TEST: evaluator.splits.test} if options.test else {}
    return {VALIDATION: evaluator.validation(options), **tested}


class _Loaded(nn.Module):
    def __init__(self, run: Forward) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)
