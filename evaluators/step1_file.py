"""Keep rankings and step-1 tables with a run, in one safetensors file, so that a resumed search scores exactly as before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from evaluators.artifacts import save_tensors
from evaluators.loss_tables import AnyTerm, LossTables, MaskTerm, Term
from evaluators.saliency import Ranking
from search_spaces.space import CompressionSpace


def write_step1(file: Path, ranking: Ranking, tables: LossTables) -> None:
    order = [[group, criterion, list(units)] for (group, criterion), units in ranking.order.items()]
    terms = [[t.kind, t.layer, list(t.genes), _scale(t)] for t in tables.terms]
    tensors = {f"term-{i:05d}": torch.from_numpy(np.ascontiguousarray(_values(t))) for i, t in enumerate(tables.terms)}
    metadata = {"order": json.dumps(order), "terms": json.dumps(terms), "space": tables.space.digest}
    save_tensors(file, tensors, metadata)


def read_step1(file: Path, space: CompressionSpace, peak: bool) -> tuple[Ranking, LossTables]:
    """Raises ValueError where the file belongs to another space."""
    with safe_open(file, "np") as stored:
        metadata = stored.metadata()
        if metadata["space"] != space.digest:
            raise ValueError(
                f"a resumed search must keep its space (digest {metadata['space']}), "
                f"but got digest {space.digest}; undo the change "
                "of model, data or space, or start a new search in another run directory"
            )
        terms = tuple(
            _term(kind, layer, tuple(genes), stored.get_tensor(f"term-{i:05d}"), scale)
            for i, (kind, layer, genes, scale) in enumerate(json.loads(metadata["terms"]))
        )
    order = {(group, criterion): tuple(units) for group, criterion, units in json.loads(metadata["order"])}
    return Ranking(order), LossTables(space, terms, peak)


def _values(term: AnyTerm) -> np.ndarray:
    return term.shifts if isinstance(term, MaskTerm) else term.table


def _scale(term: AnyTerm) -> float | None:
    return term.scale if isinstance(term, MaskTerm) else None


def _term(kind: str, layer: str, genes: tuple[int, ...], values: np.ndarray, scale: float | None) -> AnyTerm:
    return Term(kind, layer, genes, values) if scale is None else MaskTerm(kind, layer, genes, values, scale)
