"""Genes of the joint space: a class per kind, with all that the space, its costs and people ask of the kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from search_spaces.codebooks import CHANNEL, TENSOR, Scheme
from search_spaces.plan import FLOAT_BITS, Bits
from search_spaces.sparsity import Pattern

GROUP, LAYER, BLOCK = "group", "layer", "block"


class Kind(ABC):
    """A new kind of gene is a frozen dataclass that answers these, and an entry of `Gene`.

    scope: what it belongs to, and the field that names that. decides: whether it can change the network alone, or only says
    how another gene does. graded: a random genome draws one level for all genes of the kind. changed: a random genome
    changes a share of the kind's genes, drawn from 0 to this. field: what it sets in `Phenotypes`, to `values` by allele;
    empty where that takes other genes too (`search_spaces.links`).
    """

    kind: ClassVar[str]
    scope: ClassVar[str] = LAYER
    decides: ClassVar[bool] = True
    graded: ClassVar[bool] = False
    changed: ClassVar[float] = 1.0
    field: ClassVar[str] = ""

    @property
    def place(self) -> str:
        """Name of the layer, channel group or block that it belongs to."""
        return str(getattr(self, self.scope))

    @property
    def places(self) -> tuple[str, ...]:
        """`place`, and others that the gene decides about alike."""
        return (self.place,)

    @property
    @abstractmethod
    def cardinality(self) -> int: ...

    @abstractmethod
    def label(self, allele: int) -> str:
        """An allele for people."""

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.place}"

    @property
    def values(self) -> np.ndarray:
        """The field's value of every allele, first dimension of this length."""
        return np.empty(0)

    @property
    def tells(self) -> bool:
        """Whether it says something even with a single allele, so that the space keeps it."""
        return False


@dataclass(frozen=True)
class WidthGene(Kind):
    """How many channels a group keeps; `kept` ascends, the last allele is the full width. compensate: what reads it makes up."""

    group: str
    kept: tuple[int, ...]
    compensate: bool = False
    ordinal: bool = True
    kind, scope, graded, field = "width", GROUP, True, "kept"

    @property
    def cardinality(self) -> int:
        return len(self.kept)

    @property
    def values(self) -> np.ndarray:
        return np.array(self.kept)

    def label(self, allele: int) -> str:
        return f"{self.kept[allele]} ch"


@dataclass(frozen=True)
class CriterionGene(Kind):
    """Which saliency criterion chooses the channels of a group."""

    group: str
    criteria: tuple[str, ...]
    ordinal: bool = False
    kind, scope, decides = "criterion", GROUP, False

    @property
    def cardinality(self) -> int:
        return len(self.criteria)

    def label(self, allele: int) -> str:
        return self.criteria[allele]


@dataclass(frozen=True)
class MaskGene(Kind):
    """Whether one unit of a channel group is kept (allele 1): one bit of a binary channel code. The groups in `also`, of equal
    size, share it. compensate: what reads the group makes up for lost units."""

    group: str
    unit: int
    ordinal: bool = True
    also: tuple[str, ...] = ()
    compensate: bool = False
    kind, scope = "mask", GROUP

    @property
    def places(self) -> tuple[str, ...]:
        return (self.group, *self.also)

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.group}:{self.unit}"

    @property
    def cardinality(self) -> int:
        return 2

    def label(self, allele: int) -> str:
        return "keep" if allele else "drop"


@dataclass(frozen=True)
class _BitsGene(Kind):
    layer: str
    bits: tuple[int, ...]
    ordinal: bool = True
    graded = True

    @property
    def cardinality(self) -> int:
        return len(self.bits)

    @property
    def values(self) -> np.ndarray:
        return np.array(self.bits)

    @property
    def tells(self) -> bool:
        return True

    def label(self, allele: int) -> str:
        return "float" if self.bits[allele] >= FLOAT_BITS else f"{self.bits[allele]} bit"


@dataclass(frozen=True)
class WeightBitsGene(_BitsGene):
    """Weight bit-width of a layer, ascending; the last allele is the least compressed."""

    kind = field = "weight_bits"


@dataclass(frozen=True)
class ActivationBitsGene(_BitsGene):
    """Bit-width of a layer's input activations, ascending."""

    kind = field = "activation_bits"


@dataclass(frozen=True)
class SchemeGene(Kind):
    """How the weights of a layer become codes. Where a scheme does not exist at the layer's bit-width, the first that does."""

    layer: str
    schemes: tuple[Scheme, ...]
    ordinal: bool = False
    kind = "scheme"

    @property
    def cardinality(self) -> int:
        return len(self.schemes)

    @property
    def tells(self) -> bool:
        return self.schemes != (Scheme(),)

    def label(self, allele: int) -> str:
        scheme = self.schemes[allele]
        group = {CHANNEL: "", TENSOR: " per tensor"}.get(scheme.group, f" per {scheme.group}")
        return f"{scheme.codebook}{group}{'' if scheme.rounding == 'nearest' else f' {scheme.rounding}'}"


@dataclass(frozen=True)
class RangeGene(Kind):
    """How the limits of a layer's input activations are chosen."""

    layer: str
    rules: tuple[str, ...]
    ordinal: bool = False
    kind = "range"

    @property
    def cardinality(self) -> int:
        return len(self.rules)

    @property
    def tells(self) -> bool:
        return self.rules != (Bits.range,)

    def label(self, allele: int) -> str:
        return self.rules[allele]


@dataclass(frozen=True)
class FactorOption:
    """A decomposition whose factors hold this share of the dense layer's weights; aspect is the input rank relative to the input
    channels, divided by the same of the outputs, where a method has both."""

    method: str
    share: float
    aspect: float = 1.0


DENSE = FactorOption("none", 1.0)


@dataclass(frozen=True)
class FactorGene(Kind):
    """How a layer is decomposed, and what is kept close by it; the first allele is DENSE."""

    layer: str
    options: tuple[FactorOption, ...]
    metric: str = "weights"
    ordinal: bool = False
    kind, changed = "factor", 0.5

    @property
    def cardinality(self) -> int:
        return len(self.options)

    def label(self, allele: int) -> str:
        option = self.options[allele]
        return option.method if option == DENSE else f"{option.method} {option.share:.3g}"


@dataclass(frozen=True)
class SparsityGene(Kind):
    """Which weights of a layer remain; the first pattern is the dense one. Without effect on a decomposed layer."""

    layer: str
    patterns: tuple[Pattern, ...]
    criterion: str = "magnitude"
    compensate: bool = False
    ordinal: bool = False
    kind = field = "sparsity"

    @property
    def cardinality(self) -> int:
        return len(self.patterns)

    @property
    def values(self) -> np.ndarray:
        return np.array([(p.kept, p.of, p.structured) for p in self.patterns], dtype=np.int64)

    def label(self, allele: int) -> str:
        pattern = self.patterns[allele]
        share = f"{pattern.kept}:{pattern.of}" if pattern.structured else f"{pattern.kept / pattern.of:g}"
        return "dense" if allele == 0 else f"keeps {share}"


@dataclass(frozen=True)
class SkipGene(Kind):
    """Whether a residual block is kept (allele 0) or replaced by its shortcut (allele 1)."""

    block: str
    ordinal: bool = False
    kind, scope, changed, field = "skip", BLOCK, 0.3, "skipped"

    @property
    def cardinality(self) -> int:
        return 2

    @property
    def values(self) -> np.ndarray:
        return np.array([False, True])

    def label(self, allele: int) -> str:
        return "skip" if allele else "keep"


LayerGene = WeightBitsGene | ActivationBitsGene | SchemeGene | RangeGene | FactorGene | SparsityGene
Gene = WidthGene | CriterionGene | MaskGene | LayerGene | SkipGene


def full_allele(gene: Gene) -> int:
    """The allele that compresses least."""
    return gene.cardinality - 1 if gene.ordinal else 0
