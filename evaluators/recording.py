"""What one forward pass of a network showed: layers, operations, activations, submodule calls, all with their channel labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from evaluators.labels import Units


@dataclass
class LayerCall:
    """What is known of a convolution or linear layer after its calls: labels along its channel dimensions, places."""

    name: str
    kind: str
    weight: Tensor
    in_labels: Tensor
    out_labels: Tensor
    groups: int
    bias: bool
    in_positions: int = 0
    out_positions: int = 0
    calls: int = 0
    mid_positions: int = 0


@dataclass
class Op:
    """One operation: activations read and made, the layer that it is, and the submodules that it ran in, outermost first."""

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    name: str
    layer: str = ""
    modules: tuple[str, ...] = ()


@dataclass
class ProductCall:
    """A counted operation outside layers (attention, functional projections): its MACs and the labels of its output."""

    macs: int
    labels: Tensor
    modules: tuple[str, ...]


@dataclass
class ModuleCall:
    """One call of a submodule: its input and output activation, their labels, and the operations in between."""

    name: str
    input: int
    output: int
    in_labels: Tensor
    out_labels: Tensor
    first: int
    last: int
    alone: bool


@dataclass
class Recording:
    """Everything one forward pass showed.

    vectors: labels along the parameters of a batch normalisation. parameters: labels of the elements of other parameters that met
    channels. sizes: labels that a module's integer attribute counts, by (module, attribute).
    """

    units: Units = field(default_factory=Units)
    layers: dict[str, LayerCall] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    products: list[ProductCall] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    activations: list[Tensor] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    outputs: Sequence[int] = ()
