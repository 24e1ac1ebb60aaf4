"""Explain front members of a run from its step-1 tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from evaluators.loss_tables import LossTables
from evaluators.step1_file import read_step1
from evo.candidates import STEP2
from evo.front import FrontPoint, spread
from evo.result import Result
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import STEP1_FILE
from evo.views.explain_figures import explanation_html, explanation_png
from evo.views.explanation import Explanation, Sensitivity, explain_point, uncompressed
from evo.views.summary import SHOWN_POINTS
from search_spaces.space import CompressionSpace


def explain(result: Result, points: Sequence[FrontPoint]) -> tuple[tuple[Explanation, ...], tuple[Sensitivity, ...]]:
    """An explanation per point, and what step 1 predicts for every choice alone.

    Predictions are left out where the run directory holds no tables (a remote one).
    """
    space = result.problem.space
    if not isinstance(space, CompressionSpace):
        raise ValueError(f"only the space of a network can be explained, but got {type(space).__name__}; name its run")
    tables = _tables(result, space)
    known = sensitivities(tables) if tables else ()
    layers = [layer.name for layer in space.network.layers]
    keep = [name for name in layers if any(fnmatchcase(name, pattern) for pattern in result.config.space.keep)]
    made = (
        explain_point(space, p, _predicted(result, p, tables) if tables else {}, known, result.front, keep)
        for p in points
    )
    return tuple(made), known


def _tables(result: Result, space: CompressionSpace) -> LossTables | None:
    folder = RunDirectory.open(result.run_dir).local
    if folder is None or not (folder / STEP1_FILE).is_file():
        return None
    return read_step1(folder / STEP1_FILE, space, peak=False)[1]


def _predicted(result: Result, point: FrontPoint, tables: LossTables) -> dict[tuple[str, str], float]:
    """The predicted loss of a member by (layer, kind of decision)."""
    evaluation = result.evaluation(point.candidate_id, STEP2)
    if evaluation is None:
        return {}
    genome = np.array([tables.space.repair(evaluation.candidate.genome)])
    parts = tables.contributions(genome)[0]
    losses: dict[tuple[str, str], float] = defaultdict(float)
    for term, loss in zip(tables.terms, parts, strict=True):
        losses[term.layer, term.kind] += float(loss)
    return dict(losses)


def sensitivities(tables: LossTables) -> tuple[Sensitivity, ...]:
    """The predicted loss of every choice of every gene alone, by the criterion that loses least."""
    space = tables.space
    rest = uncompressed(space)
    found = []
    for at, gene in enumerate(space.genes):
        if not (gene.decides and gene.cardinality > 1):
            continue
        rows = np.array(
            [_with(row, at, allele) for allele in range(gene.cardinality) for row in _criteria(tables, at, rest)]
        )
        own = [column for column, term in enumerate(tables.terms) if at in term.genes]
        losses = tables.contributions(rows)[:, own].sum(axis=1)
        scores = losses.reshape(gene.cardinality, -1).min(axis=1)
        kind, _, place = gene.name.partition(":")
        labels = tuple(gene.label(allele) for allele in range(gene.cardinality))
        found.append(Sensitivity(place, kind, labels, tuple(float(s) for s in scores)))
    return tuple(found)


def _with(genome: np.ndarray, at: int, allele: int) -> np.ndarray:
    changed: np.ndarray = genome.copy()
    changed[at] = allele
    return changed


def _criteria(tables: LossTables, at: int, genome: np.ndarray) -> list[np.ndarray]:
    """The genome under every allele of the criterion that serves a width gene; the genome alone for other genes."""
    kind, _, place = tables.space.names[at].partition(":")
    criterion = f"criterion:{place}"
    if kind != "width" or criterion not in tables.space.names:
        return [genome]
    index = tables.space.names.index(criterion)
    return [_with(genome, index, allele) for allele in range(tables.space.cardinalities[index])]


def explanation_page(result: Result, first: FrontPoint | None = None, most: int = SHOWN_POINTS) -> str:
    """One page about the front: the point asked for (or the knee) first, then others at even steps."""
    chosen = first or result.pick("knee").point
    others = [p for p in spread(result.useful or result.front, most) if p.candidate_id != chosen.candidate_id]
    made, known = explain(result, (chosen, *others))
    return explanation_html(f"{result.config.name}: why the front looks as it does", made, known)


def write_explanation(result: Result, point: FrontPoint, file: Path) -> None:
    """FILE.html holds the front beginning with the point, FILE.png the point alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        file.write_text(explanation_page(result, point), encoding="utf-8")
    else:
        explanation_png(explain(result, (point,))[0][0], str(file))
