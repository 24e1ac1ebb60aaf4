"""Genes of the joint space. Each says how many alleles it has and whether neighbouring alleles mean similar things."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.codebooks import Scheme
from search_spaces.sparsity import Pattern


@dataclass(frozen=True)
class WidthGene:
    """How many channels a group keeps; `kept` ascends, the last allele is the full width. compensate: what reads it makes up."""

    group: str
    kept: tuple[int, ...]
    compensate: bool = False
    ordinal: bool = True

    @property
    def name(self) -> str:
        return f"width:{self.group}"

    @property
    def cardinality(self) -> int:
        return len(self.kept)


@dataclass(frozen=True)
class CriterionGene:
    """Which saliency criterion chooses the channels of a group."""

    group: str
    criteria: tuple[str, ...]
    ordinal: bool = False

    @property
    def name(self) -> str:
        return f"criterion:{self.group}"

    @property
    def cardinality(self) -> int:
        return len(self.criteria)


@dataclass(frozen=True)
class WeightBitsGene:
    """Weight bit-width of a layer, ascending; the last allele is the least compressed."""

    layer: str
    bits: tuple[int, ...]
    ordinal: bool = True

    @property
    def name(self) -> str:
        return f"weight_bits:{self.layer}"

    @property
    def cardinality(self) -> int:
        return len(self.bits)


@dataclass(frozen=True)
class ActivationBitsGene:
    """Bit-width of a layer's input activations, ascending."""

    layer: str
    bits: tuple[int, ...]
    ordinal: bool = True

    @property
    def name(self) -> str:
        return f"activation_bits:{self.layer}"

    @property
    def cardinality(self) -> int:
        return len(self.bits)


@dataclass(frozen=True)
class SchemeGene:
    """How the weights of a layer become codes. Where a scheme does not exist at the layer's bit-width, the first that does."""

    layer: str
    schemes: tuple[Scheme, ...]
    ordinal: bool = False

    @property
    def name(self) -> str:
        return f"scheme:{self.layer}"

    @property
    def cardinality(self) -> int:
        return len(self.schemes)


@dataclass(frozen=True)
class RangeGene:
    """How the limits of a layer's input activations are chosen."""

    layer: str
    rules: tuple[str, ...]
    ordinal: bool = False

    @property
    def name(self) -> str:
        return f"range:{self.layer}"

    @property
    def cardinality(self) -> int:
        return len(self.rules)


@dataclass(frozen=True)
class FactorOption:
    """A decomposition whose factors hold this share of the dense layer's weights; aspect is the input rank relative to the input
    channels, divided by the same of the outputs, where a method has both."""

    method: str
    share: float
    aspect: float = 1.0


DENSE = FactorOption("none", 1.0)


@dataclass(frozen=True)
class FactorGene:
    """How a layer is decomposed, and what is kept close by it; the first allele is DENSE."""

    layer: str
    options: tuple[FactorOption, ...]
    metric: str = "weights"
    ordinal: bool = False

    @property
    def name(self) -> str:
        return f"factor:{self.layer}"

    @property
    def cardinality(self) -> int:
        return len(self.options)


@dataclass(frozen=True)
class SparsityGene:
    """Which weights of a layer remain; the first pattern is the dense one. Without effect on a decomposed layer."""

    layer: str
    patterns: tuple[Pattern, ...]
    criterion: str = "magnitude"
    compensate: bool = False
    ordinal: bool = False

    @property
    def name(self) -> str:
        return f"sparsity:{self.layer}"

    @property
    def cardinality(self) -> int:
        return len(self.patterns)


@dataclass(frozen=True)
class SkipGene:
    """Whether a residual block is kept (allele 0) or replaced by its shortcut (allele 1)."""

    block: str
    ordinal: bool = False

    @property
    def name(self) -> str:
        return f"skip:{self.block}"

    @property
    def cardinality(self) -> int:
        return 2


@dataclass(frozen=True)
class MaskGene:
    """Whether one unit of a channel group is kept (allele 1): one bit of a binary channel code. The groups in `also`, of equal
    size, share it."""

    group: str
    unit: int
    ordinal: bool = True
    also: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.group, *self.also)

    @property
    def name(self) -> str:
        return f"mask:{self.group}:{self.unit}"

    @property
    def cardinality(self) -> int:
        return 2


LayerGene = WeightBitsGene | ActivationBitsGene | SchemeGene | RangeGene | FactorGene | SparsityGene
Gene = WidthGene | CriterionGene | MaskGene | LayerGene | SkipGene


def full_allele(gene: Gene) -> int:
    """The allele that compresses least."""
    return gene.cardinality - 1 if gene.ordinal else 0
