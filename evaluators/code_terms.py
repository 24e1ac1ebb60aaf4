"""What binary channel codes cost at step 1: per layer that reads the channels, a quadratic form of the code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from evaluators.channels import ChannelMap, kept_index
from evaluators.gene_terms import Evidence
from evaluators.loss_tables import MaskTerm
from evaluators.reconstruction import RECONSTRUCTION, unit_shifts
from evaluators.weight_changes import lost
from search_spaces.genes import MaskGene
from search_spaces.space import CompressionSpace


def code_terms(known: Evidence, form: str) -> list[MaskTerm]:
    """For each layer that reads a group with a bit per unit: what losing the columns of each unit does, in this form."""
    found = []
    for group, units in _coded(known.space).items():
        for consumer in known.space.network.group(group).consumers:
            for channel_map in (m for m in known.trace.maps_of(f"{consumer}.weight") if m.dim == 1):
                shifts = _unit_shifts(known, group, list(units), consumer, channel_map, form)
                found.append(MaskTerm("mask", consumer, tuple(units.values()), shifts, 1.0))
    return found


def _coded(space: CompressionSpace) -> Mapping[str, Mapping[int, int]]:
    """Group -> unit -> the gene that is its bit."""
    groups: dict[str, dict[int, int]] = {}
    for at, gene in enumerate(space.genes):
        if isinstance(gene, MaskGene):
            for group in gene.places:
                groups.setdefault(group, {})[gene.unit] = at
    return groups


def _unit_shifts(
    known: Evidence, group: str, units: list[int], consumer: str, channel_map: ChannelMap, form: str
) -> np.ndarray:
    """float32 (units, rows): what losing each unit alone does."""
    layer, number = known.gradients.layers[consumer], known.space.network.columns[group]
    kept = (kept_index(channel_map, {number: sorted(set(units) - {unit})}) for unit in units)
    changes = (lost(layer.weight, len(channel_map.group), index) for index in kept)
    if form == RECONSTRUCTION:
        columns = [change.any(0).nonzero().flatten().tolist() for change in changes]
        outputs: np.ndarray = unit_shifts(
            layer.weight, known.statistics[consumer].inputs.second(False), columns
        ).numpy()
        return outputs
    return np.stack([layer.linear_shifts(change).numpy() for change in changes])


def moved_by(terms: list[MaskTerm], genome: np.ndarray) -> Iterator[np.ndarray]:
    """What each term's dropped units do together (rows,)."""
    return ((genome[list(term.genes)] == 0).astype(np.float32) @ term.shifts for term in terms)
