"""What people get of a pair of generators: both as files of their own, and a sheet of images along the front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.export import FORMATS_BY_ENDING, export
from evaluators.gan.metrics import unit_range
from evaluators.gan.networks import A_TO_B, DIRECTIONS
from evaluators.quantise import bake
from evo.candidates import FINAL, STEP2
from evo.front import spread
from evo.loop.final import genome_of
from evo.randomness import evaluation_seed
from evo.result import Result
from evo.studies.translation import TranslationStudy
from evo.views.image_sheet import Columns, draw_sheet
from search_spaces.costs import costs
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan
from search_spaces.subnetwork import part_of_network, part_of_plan

SHEET_FILE = "figures/translations.png"
SHEET_IMAGES, SHEET_POINTS = 4, 5
EXPORT_IMAGES, EXPORT_BATCH = 128, 16


def export_pair(
    study: TranslationStudy, module: nn.Module, out: Path, kind: str, facts: Mapping[str, Any], plan: CompressionPlan
) -> Path:
    """Both generators under `out`, in folders of the directions' names, each with its card; ValueError for a single file."""
    if out.suffix in FORMATS_BY_ENDING:
        raise ValueError(
            f"an export of two generators must name a folder, but got {out}; leave out the ending {out.suffix}"
        )
    device = torch.device("cpu")
    batches = list(study.splits.calibration_batches(EXPORT_IMAGES, EXPORT_BATCH, device))
    for at, direction in enumerate(DIRECTIONS):
        part = part_of_plan(plan, f"{direction}.")
        export(
            module.get_submodule(direction),
            study.example[at],
            out / direction,
            kind,
            {**facts, "direction": direction, "measures": _own(study, facts["measures"], part, direction)},
            part,
            [batch[at] for batch in batches],
        )
    return out


def _own(
    study: TranslationStudy, measures: Mapping[str, float], part: CompressionPlan, direction: str
) -> dict[str, float]:
    """The pair's measures with the costs of one generator in place of theirs; the peak of activations is told of both only."""
    network = part_of_network(study.trace.network, f"{direction}.")
    found = {name: float(value[0]) for name, value in costs(network, of_plan(network, part)).items()}
    return {name: found.get(name, value) for name, value in measures.items() if name != "peak_activation_bytes"}


def write_sheet(study: TranslationStudy, result: Result, file: Path) -> None:
    """A picture with a row per validation image: the input, what the uncompressed generator makes of it, and what those along
    the front do, from large to small; where a pick was finished, its finished form."""
    sheets = {direction: _columns(study, result, direction) for direction in DIRECTIONS}
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(sheets, file)


def _columns(study: TranslationStudy, result: Result, direction: str) -> Columns:
    domain = study.splits.a if direction == A_TO_B else study.splits.b
    images = study.splits.prepare(domain.validation.images[:SHEET_IMAGES], study.evaluator.device)
    columns = [("input", _pixels(images)), ("original", _made(study.teacher, direction, images))]
    full = result.baseline[f"params_{direction}"]
    points = list(spread(result.front, SHEET_POINTS))
    points += [p for p in result.front if p.candidate_id in result.finals and p not in points]
    kept = study.evaluator.artifacts is not None  # without a folder of tuned networks they would be tuned anew
    for point in sorted(points, key=lambda p: -p.measures[f"params_{direction}"]):
        step = FINAL if kept and point.candidate_id in result.finals else STEP2
        seed = evaluation_seed(result.config.seed, genome_of(result, point, study.space), step)
        module = bake(study.evaluator.realise(point.plan, step, seed))
        share = point.measures[f"params_{direction}"] / full
        title = f"{point.candidate_id}\n{share:.2f}x{', tuned' if step == FINAL else ''}"
        columns.append((title, _made(module, direction, images)))
    return columns


@torch.no_grad()
def _made(module: nn.Module, direction: str, images: Tensor) -> np.ndarray:
    return _pixels(module.get_submodule(direction)(images))


def _pixels(images: Tensor) -> np.ndarray:
    pixels = unit_range(images).cpu().permute(0, 2, 3, 1).numpy()
    return np.asarray(np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels)
