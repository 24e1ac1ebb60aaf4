"""Insert nodes into an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper


class Graph:
    """An ONNX model under edit. Nodes may be added in any order; `model` gives them back sorted."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.nodes: list[NodeProto] = list(self._model.graph.node)
        self.arrays = {t.name: numpy_helper.to_array(t) for t in self._model.graph.initializer}
        self.outputs = {output.name for output in self._model.graph.output}
        self._names = 0

    def constant(self, array: np.ndarray, kind: int | None = None) -> str:
        """Store an array, or its integers as an ONNX type of fewer bits, and give its name."""
        name = self._name("stored")
        tensor = numpy_helper.from_array(np.array(array, order="C"), name)
        if kind is not None:
            tensor = helper.make_tensor(name, kind, array.shape, array.flatten().tolist())
        self._model.graph.initializer.append(tensor)
        self.arrays[name] = array
        return name

    def add(self, operator: str, inputs: Iterable[str], **attributes: Any) -> str:
        """A new node; gives the name of its output."""
        output = self._name(operator.lower())
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def readers(self, value: str) -> list[NodeProto]:
        return [node for node in self.nodes if value in node.input]

    def maker(self, value: str) -> NodeProto | None:
        return next((node for node in self.nodes if value in node.output), None)

    def model(self, more_outputs: Iterable[str] = ()) -> onnx.ModelProto:
        """The edited model: nodes in an order in which they can run, without constants that nobody reads."""
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        del made.graph.node[:], made.graph.initializer[:], made.graph.value_info[:]
        made.graph.node.extend(self.sorted())
        read = {name for node in self.nodes for name in node.input} | self.outputs
        made.graph.initializer.extend(t for t in self._model.graph.initializer if t.name in read)
        made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more_outputs)
        return made

    def sorted(self) -> list[NodeProto]:
        """The nodes, each behind those that make what it reads."""
        made = {name for node in self.nodes for name in node.output}
        waiting, done, ordered = list(self.nodes), set[str](), list[NodeProto]()
        while waiting:
            ready = [n for n in waiting if all(i in done or i not in made for i in n.input)]
            if not ready:
                raise ValueError(
                    f"a graph must have no cycles, but got one through {waiting[0].name}; report this network"
                )
            ordered.extend(ready)
            done.update(name for node in ready for name in node.output)
            waiting = [n for n in waiting if not any(n is r for r in ready)]
        return ordered

    def _name(self, what: str) -> str:
        self._names += 1
        return f"{what}_q{self._names}"


def redirect(node: NodeProto, old: str, new: str) -> None:
    """Let a node read another value."""
    for at, name in enumerate(node.input):
        if name == old:
            node.input[at] = new
