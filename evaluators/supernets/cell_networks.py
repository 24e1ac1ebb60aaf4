"""Networks that repeat cells: the macro structures of DARTS and NAS-Bench-201, with any set of operations on their edges.

Built with one operation an edge it is the network of a plan; with all of them it holds the weights of every plan, under the same
names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.supernets.cell_operations import DARTS, NASBENCH201, FactorisedReduce, relu_conv_bn
from search_spaces.cells import DARTS_OPERATIONS, NASBENCH201_OPERATIONS, NODES, cells_of
from search_spaces.plan import CompressionPlan

Edges = Sequence[Sequence[tuple[int, str]]]  # (source, operation) of all edges into every node


class Cell(nn.Module):
    """Nodes are sums of operations on earlier ones; `states` are the cell's inputs. Returns all states."""

    def __init__(self, edges: Edges, operations: Mapping[str, nn.Module], inputs: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)
        self._edges, self._inputs = edges, inputs

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        states = list(states)
        for number, node in enumerate(self._edges):
            terms = [self.operations[key(number, edge)](states[edge[0]]) for edge in node]
            states.append(torch.stack(terms).sum(0) if len(terms) > 1 else terms[0])
        return states


def key(node: int, edge: tuple[int, str]) -> str:
    return f"{edge[0]}>{node}:{edge[1]}"


@dataclass(frozen=True)
class Macro:
    """How often cells are repeated and how wide they are. affine: whether batch norms have scale and shift; DARTS searches
    without."""

    channels: int = 16
    cells: int = 8
    classes: int = 10
    inputs: int = 3
    affine: bool = False


class DartsNetwork(nn.Module):
    """Images (N, inputs, H, W) to logits. The cells at one and two thirds of the depth reduce, with twice the channels."""

    def __init__(self, edges: Sequence[Edges], macro: Macro) -> None:
        super().__init__()
        before_last, last, channels = 3 * macro.channels, 3 * macro.channels, macro.channels
        self.stem = nn.Sequential(nn.Conv2d(macro.inputs, last, 3, padding=1, bias=False), nn.BatchNorm2d(last))
        self.cells = nn.ModuleList()
        reductions = {macro.cells // 3, 2 * macro.cells // 3}
        for number in range(macro.cells):
            reduces = number in reductions
            channels *= 2 if reduces else 1
            after_reduction = number - 1 in reductions
            cell = DartsCell(edges[int(reduces)], before_last, last, channels, reduces, after_reduction, macro.affine)
            self.cells.append(cell)
            before_last, last = last, NODES * channels
        self.classifier = nn.Linear(last, macro.classes)

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1))


class DartsCell(nn.Module):
    def __init__(
        self,
        edges: Edges,
        before_last: int,
        last: int,
        channels: int,
        reduces: bool,
        after_reduction: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        self.first = (
            FactorisedReduce(before_last, channels, affine)
            if after_reduction
            else relu_conv_bn(before_last, channels, 1, 1, affine)
        )
        self.second = relu_conv_bn(last, channels, 1, 1, affine)
        made = {
            key(number, edge): DARTS[edge[1]](channels, 2 if reduces and edge[0] < 2 else 1, affine)
            for number, node in enumerate(edges)
            for edge in node
        }
        self.cell = Cell(edges, made, 2)

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        return torch.cat(self.cell([self.first(before_last), self.second(last)])[2:], dim=1)


class NasBench201Network(nn.Module):
    """Images (N, inputs, H, W) to logits: three stages of `cells` cells, with a residual block of stride 2 between stages."""

    def __init__(self, edges: Sequence[Edges], macro: Macro) -> None:
        super().__init__()
        channels = macro.channels
        self.stem = nn.Sequential(nn.Conv2d(macro.inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.cells.append(Reduction(channels, 2 * channels))
                channels *= 2
            self.cells.extend(_single(edges[0], channels, macro.affine) for _ in range(macro.cells))
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, macro.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell([x])[-1] if isinstance(cell, Cell) else cell(x)
        return self.classifier(F.adaptive_avg_pool2d(self.last(x), 1).flatten(1))


def _single(edges: Edges, channels: int, affine: bool) -> Cell:
    made = {key(n, edge): NASBENCH201[edge[1]](channels, 1, affine) for n, node in enumerate(edges) for edge in node}
    return Cell(edges, made, 1)


class Reduction(nn.Module):
    """A residual block with stride 2, whose shortcut averages 2 x 2 places."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = relu_conv_bn(c_in, c_out, 3, 2, True)
        self.conv2 = relu_conv_bn(c_out, c_out, 3, 1, True)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv2(self.conv1(x))


def chosen(plan: CompressionPlan) -> list[Edges]:
    """The edges of a plan, by kind of cell."""
    return [[[(edge.source, edge.operation) for edge in node] for node in cell] for cell in cells_of(plan)]


CellNetwork = DartsNetwork | NasBench201Network
KINDS: Mapping[str, type[CellNetwork]] = {"darts": DartsNetwork, "nasbench201": NasBench201Network}


def every_edge(kind: type[CellNetwork]) -> list[Edges]:
    """All edges that any plan has, with all operations."""
    if kind is DartsNetwork:
        cell = [[(i, o) for i in range(node + 2) for o in DARTS_OPERATIONS] for node in range(NODES)]
        return [cell, cell]
    return [[[(i, o) for i in range(node) for o in NASBENCH201_OPERATIONS] for node in range(1, NODES)]]
