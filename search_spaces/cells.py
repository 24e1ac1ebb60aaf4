"""Spaces of architectures whose networks repeat a searched cell: DARTS (Liu et al. 2019) and NAS-Bench-201 (Dong and Yang 2020).

Every code within the cardinalities is legal: the two inputs of a node are one gene, an unordered pair, so they cannot coincide.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, combinations, product
from typing import Any

import numpy as np

from search_spaces.coded import CodedSpace
from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan, Edge

NONE, SKIP = "none", "skip_connect"
DARTS_OPERATIONS = (
    NONE,
    "max_pool_3x3",
    "avg_pool_3x3",
    SKIP,
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NASBENCH201_OPERATIONS = (NONE, SKIP, "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4  # intermediate nodes of a DARTS cell; a NAS-Bench-201 cell has four nodes with its input


@dataclass(frozen=True)
class CellGene:
    """A choice of node `node` of every or one kind of cell; alleles are operations, or pairs of inputs."""

    name: str
    alleles: tuple[Any, ...]
    node: int
    ordinal: bool = False

    @property
    def cardinality(self) -> int:
        return len(self.alleles)


@dataclass(frozen=True)
class CellSpace(CodedSpace[CellGene], ABC):
    """What both spaces have in common."""

    genes: tuple[CellGene, ...]

    @cached_property
    def digest(self) -> str:
        text = json.dumps([type(self).__name__, *(asdict(gene) for gene in self.genes)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The genes of a node, of all kinds of cells together (Yang et al. 2020, CARS, and its code)."""
        nodes = dict.fromkeys(gene.node for gene in self.genes)
        return tuple(tuple(i for i, gene in enumerate(self.genes) if gene.node == node) for node in nodes)

    def sample(self, rng: np.random.Generator) -> Genome:
        return self.repair([int(code) for code in rng.integers(0, self.cardinalities)])

    @abstractmethod
    def anchors(self) -> tuple[Genome, ...]: ...
    @abstractmethod
    def decode(self, genome: Genome) -> CompressionPlan: ...

    def repair(self, genome: Sequence[int]) -> Genome:
        return tuple(min(max(0, int(c)), limit - 1) for c, limit in zip(genome, self.cardinalities, strict=True))


@dataclass(frozen=True)
class DartsSpace(CellSpace):
    """Normal and reduction cell; node n takes two different ones of the n + 2 nodes before it (inputs of the cell included).

    Three genes a node: the pair of inputs and the operation on each. An input whose operation is none has no effect: `repair`
    then names the lowest one that is free.
    """

    def anchors(self) -> tuple[Genome, ...]:
        """All separable convolutions, then all skip connections, on the two inputs of the cell."""
        kinds = (DARTS_OPERATIONS.index("sep_conv_3x3"), DARTS_OPERATIONS.index(SKIP))
        return tuple(tuple(0 if g.cardinality < len(DARTS_OPERATIONS) else kind for g in self.genes) for kind in kinds)

    def repair(self, genome: Sequence[int]) -> Genome:
        codes = super().repair(genome)
        return tuple(chain.from_iterable(node[triple][0] for node, triple in self._by_node(codes)))

    def decode(self, genome: Genome) -> CompressionPlan:
        codes = tuple(genome)
        return CompressionPlan(
            edges=tuple(chain.from_iterable(node[triple][1] for node, triple in self._by_node(codes)))
        )

    def _by_node(self, codes: Genome) -> Iterator[tuple[_Node, Genome]]:
        return ((node, codes[3 * i : 3 * i + 3]) for i, node in enumerate(self._nodes))

    @cached_property
    def _nodes(self) -> tuple[_Node, ...]:
        """What the three codes of every node stand for, 2,560 in all: plans are made by look-up, a hundred thousand a second."""
        return tuple(_node(*divmod(at // 3, NODES), self.genes[at].alleles) for at in range(0, len(self.genes), 3))


# By the codes of a node: the same ones repaired, and its two edges.
_Node = Mapping[Genome, tuple[Genome, tuple[Edge, Edge]]]


def _node(cell: int, number: int, pairs: tuple[tuple[int, int], ...]) -> _Node:
    found: dict[Genome, tuple[Genome, tuple[Edge, Edge]]] = {}
    for at, one, two in product(range(len(pairs)), *[range(len(DARTS_OPERATIONS))] * 2):
        edges = list(zip(pairs[at], (one, two), strict=True))
        (first, left), (second, right) = _canonical(edges)
        a, b = (Edge(cell, number, source, DARTS_OPERATIONS[code]) for source, code in edges)
        found[at, one, two] = ((pairs.index((first, second)), left, right), (a, b))
    return found


def _canonical(edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Two edges (input, operation code) by input; an input without operation is the lowest that is free."""
    used = [edge for edge in edges if edge[1]]
    free = (i for i in range(3) if i not in {i for i, _ in used})
    return sorted([*used, *((next(free), 0) for edge in edges if not edge[1])])


def darts_space() -> DartsSpace:
    genes: list[CellGene] = []
    for cell in ("normal", "reduce"):
        for node in range(NODES):
            pairs = tuple(combinations(range(node + 2), 2))
            genes.append(CellGene(f"{cell}:{node}:inputs", pairs, node))
            genes += [CellGene(f"{cell}:{node}:operation{i}", DARTS_OPERATIONS, node) for i in (0, 1)]
    return DartsSpace(tuple(genes))


@dataclass(frozen=True)
class NasBench201Space(CellSpace):
    """One cell of four nodes, an operation on each of its six edges i -> j, i < j: 15,625 codes."""

    def anchors(self) -> tuple[Genome, ...]:
        """All 3 x 3 convolutions, then all skip connections."""
        kinds = ("nor_conv_3x3", SKIP)
        return tuple((NASBENCH201_OPERATIONS.index(kind),) * len(self.genes) for kind in kinds)

    def decode(self, genome: Genome) -> CompressionPlan:
        places = [(node, source) for node in range(NODES - 1) for source in range(node + 1)]
        codes = zip(places, genome, strict=True)
        return CompressionPlan(edges=tuple(Edge(0, n, i, NASBENCH201_OPERATIONS[code]) for (n, i), code in codes))


def nasbench201_space() -> NasBench201Space:
    edges = [(i, j) for j in range(1, NODES) for i in range(j)]
    return NasBench201Space(tuple(CellGene(f"{i}->{j}", NASBENCH201_OPERATIONS, j) for i, j in edges))


def cells_of(plan: CompressionPlan) -> list[list[list[Edge]]]:
    """The edges of a plan by cell and node."""
    cells: list[list[list[Edge]]] = []
    for edge in plan.edges:
        while edge.cell >= len(cells):
            cells.append([])
        while edge.node >= len(cells[edge.cell]):
            cells[edge.cell].append([])
        cells[edge.cell][edge.node].append(edge)
    return cells


def topology(plan: CompressionPlan) -> str:
    """Equal for cells that compute the same whatever their weights: skip connections and zeros resolved, sums unordered (the
    canonical string of Dong and Yang 2020, of its last node)."""
    (cell,) = cells_of(plan)
    texts = ["0"]
    for node in cell:
        texts.append("+".join(sorted(_term(texts[edge.source], edge.operation) for edge in node)))
    return texts[-1]


def _term(source: str, operation: str) -> str:
    if operation == NONE or source == "#":
        return "#"
    return source if operation == SKIP else f"({source})@{operation}"
