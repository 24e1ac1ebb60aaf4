"""The phenotype: one record per decision, in the order of application prune -> decompose -> mask -> quantise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.codebooks import CHANNEL, Scheme
from search_spaces.sparsity import Pattern

FLOAT_BITS = 32


@dataclass(frozen=True)
class Width:
    """Keep `kept` channels of a channel group: those that `criterion` ranks highest. With compensate, the layers that read the
    group make up for the others by least squares on the moments of their inputs."""

    group: str
    kept: int
    criterion: str = "l1"
    compensate: bool = False


@dataclass(frozen=True)
class Mask:
    """Keep exactly these channels of a channel group (sorted indices); compensate as for `Width`."""

    group: str
    kept: tuple[int, ...]
    compensate: bool = False


@dataclass(frozen=True)
class Skip:
    """Replace a residual block by its identity shortcut."""

    block: str


@dataclass(frozen=True)
class Factor:
    """Replace a layer's weight by factors (`search_spaces.decompositions`): svd, spatial, cp and tt2 have one rank, tucker2 has
    (input rank, output rank), tt3 two. metric says what is kept close: the `weights`, or the outputs on typical `inputs`."""

    layer: str
    method: str
    ranks: tuple[int, ...]
    metric: str = "weights"


@dataclass(frozen=True)
class Sparse:
    """Set weights of a layer to zero (`search_spaces.sparsity.Pattern`), those that matter least to `criterion`: smaller, not
    faster. With compensate, the weights that stay make up for the others with regard to the layer's inputs."""

    layer: str
    kept: int
    of: int
    structured: bool = True
    criterion: str = "magnitude"
    compensate: bool = False

    @property
    def pattern(self) -> Pattern:
        return Pattern(self.kept, self.of, self.structured)

    @property
    def data_aware(self) -> bool:
        """Whether applying it needs the moments of the layer's inputs."""
        return self.criterion != Sparse.criterion or self.compensate


@dataclass(frozen=True)
class Bits:
    """Bit-widths of a layer's weights and of its input activations; 32 means left in floating point.

    codebook, group and rounding say how weights become codes (`search_spaces.codebooks.Scheme`), range how the limits of the
    activations are chosen.
    """

    layer: str
    weight: int = FLOAT_BITS
    activation: int = FLOAT_BITS
    codebook: str = "symmetric"
    group: int = CHANNEL
    rounding: str = "nearest"
    range: str = "percentile"

    @property
    def data_aware(self) -> bool:
        """Whether the weights are rounded with regard to the moments of the layer's inputs."""
        return self.weight < FLOAT_BITS and self.rounding != Bits.rounding

    @property
    def scheme(self) -> Scheme:
        return Scheme(self.codebook, self.group, self.rounding)


@dataclass(frozen=True)
class Edge:
    """An operation on an edge of a searched cell: from state `source` (the inputs of the cell counted first) into a node."""

    cell: int
    node: int
    source: int
    operation: str


@dataclass(frozen=True)
class CompressionPlan:
    """Everything that will be done to a network. What a plan does not mention stays as it is. Where cells are searched
    (`search_spaces.cells`) the network consists of them, and `edges` says all.

    Equal plans have equal digests; `CompressionPlan.from_json(plan.to_json()) == plan`.
    """

    widths: tuple[Width, ...] = ()
    masks: tuple[Mask, ...] = ()
    skips: tuple[Skip, ...] = ()
    factors: tuple[Factor, ...] = ()
    sparse: tuple[Sparse, ...] = ()
    bits: tuple[Bits, ...] = ()
    edges: tuple[Edge, ...] = ()

    def to_json(self) -> str:
        records = asdict(self)
        if not self.edges:  # as plans were written before there were any, so that their digests stay
            del records["edges"]
        return json.dumps(records, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CompressionPlan:
        raw: Mapping[str, list[dict[str, Any]]] = json.loads(text)
        unknown = sorted(set(raw) - set(_RECORDS))
        if unknown:
            raise ValueError(f"a plan has only the records {sorted(_RECORDS)}, but got {unknown}; remove them")
        return cls(**{name: tuple(_record(kind, r) for r in raw.get(name, ())) for name, kind in _RECORDS.items()})

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.to_json().encode(), digest_size=8).hexdigest()


_RECORDS: dict[str, type] = {
    "widths": Width,
    "masks": Mask,
    "skips": Skip,
    "factors": Factor,
    "sparse": Sparse,
    "bits": Bits,
    "edges": Edge,
}


def _record(kind: type, raw: dict[str, Any]) -> Any:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})
