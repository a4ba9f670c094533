"""Small helpers over an ONNX graph: who makes and reads a tensor, constants, insertion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from paring.graph.onnx_layers import skeleton
from paring.graph.opset import modernized
from paring.types import unused

Array = npt.NDArray[Any]

TURNED = (np.float16, np.float32, np.float64)
"""Types of weights, which are all that anybody transposes."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or the default where the node does not have it."""
    for candidate in node.attribute:
        if candidate.name == name:
            return onnx.helper.get_attribute_value(candidate)
    return default


class Graph:
    """A copy of a model, to be edited; `finished` gives the edited model.

    Nodes may be appended in any order. Constant nodes become initializers, those that exporters copy or transpose are
    read directly, nameless nodes get names, and operators of an old opset become those of a later one. Raises
    TechniqueError where they can't.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(modernized(model))
        graph = self.model.graph
        self._names = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
        self._names |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in graph.output]
        self._adopt_constants()
        self._read_through_identities()
        while self._turn_constants():
            self._read_through_identities()
        for node in graph.node:
            node.name = node.name or self.unique(f"{node.op_type}_{node.output[0]}")
        self.refresh()

    def _adopt_constants(self) -> None:
        nodes = self.model.graph.node
        for node in [node for node in nodes if node.op_type == "Constant"]:
            value = attribute(node, "value", None)
            if isinstance(value, onnx.TensorProto):
                tensor = self.model.graph.initializer.add()
                tensor.CopyFrom(value)
                tensor.name = node.output[0]
                self.initializers[tensor.name] = tensor
                nodes.remove(node)

    def _read_through_identities(self) -> None:
        """Let nodes read a constant in place of copies of it, which stay where a subgraph or an output has them."""
        self.refresh()
        copies = []
        for node in self.nodes:
            if node.op_type == "Identity" and self._is_constant(node.input[0]):
                copies.append(node)
                self.redirect(node.output[0], node.input[0], self.consumers[node.output[0]])
        self.refresh()
        for node in copies:
            if not self.consumers[node.output[0]] and node.output[0] not in self.outputs:
                self.model.graph.node.remove(node)
        self.refresh()

    def _turn_constants(self) -> bool:
        """Store what Transposes alone read, all in one way, as they give it, and make them copies; whether any were."""
        turned = False
        for name, tensor in self.initializers.items():
            readers = self.consumers[name]
            value = self.constant(name) if readers and all(node.op_type == "Transpose" for node in readers) else None
            if value is None or value.dtype not in TURNED or name in self.outputs:
                continue
            orders = {tuple(attribute(node, "perm", range(value.ndim)[::-1])) for node in readers}
            if len(orders) > 1:
                continue
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.transpose(*orders)), name))
            for described in [known for known in self.model.graph.value_info if known.name == name]:
                self.model.graph.value_info.remove(described)
            for node in readers:
                node.op_type = "Identity"
                del node.attribute[:]
            turned = True
        return turned

    def refresh(self) -> None:
        """Bring `producers` and `consumers` up to date with the nodes; a subgraph's reads count for its node."""
        self.producers: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in {*node.input, *_captured_names(node)}:
                self.consumers[name].append(node)
            for name in node.output:
                self.producers[name] = node

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, in the order of the model."""
        return list(self.model.graph.node)

    def constant(self, name: str) -> Array | None:
        """The value of an initializer that no caller can override; None for anything else."""
        return numpy_helper.to_array(self.initializers[name]) if self._is_constant(name) else None

    def _is_constant(self, name: str) -> bool:
        return name in self.initializers and all(name != value.name for value in self.model.graph.input)

    def transposed(self, name: str) -> str | None:
        """The initializer of which a tensor is the transpose; None where it is none."""
        source = name
        while (node := self.producers.get(source)) is not None and node.op_type == "Transpose":
            source = node.input[0]
        return source if source != name and source in self.initializers else None

    def unique(self, hint: str) -> str:
        """A name that nothing in the graph bears yet, equal to the hint where that is free."""
        name = unused(hint, self._names)
        self._names.add(name)
        return name

    def add_constant(self, value: Array, hint: str) -> str:
        """Store an initializer and return its name."""
        name = self.unique(hint)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self.model.graph.initializer.append(tensor)
        self.initializers[name] = self.model.graph.initializer[-1]
        return name

    def replace_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Store another initializer, of another name, in place of one; who reads the old name is left to the caller."""
        del self.initializers[name]
        for stored in self.model.graph.initializer:
            if stored.name == name:
                stored.CopyFrom(tensor)
                self.initializers[tensor.name] = stored

    def add_node(self, op_type: str, inputs: Sequence[str], output_hint: str, **attributes: Any) -> str:
        """Append a node with one output and return that output's name."""
        output = self.unique(output_hint)
        self.add_named_node(op_type, inputs, output, **attributes)
        return output

    def add_named_node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Append a node whose one output has exactly that name."""
        node = onnx.helper.make_node(op_type, inputs, [output], name=self.unique(f"{output}/{op_type}"), **attributes)
        self.model.graph.node.append(node)

    def redirect(self, name: str, to: str, readers: Iterable[onnx.NodeProto]) -> None:
        """Let the given nodes read `to` wherever they read `name`."""
        for node in readers:
            for i, read in enumerate(node.input):
                if read == name:
                    node.input[i] = to

    def set_metadata(self, key: str, value: str) -> None:
        """Set one metadata entry."""
        for entry in self.model.metadata_props:
            if entry.key == key:
                entry.value = value
                return
        self.model.metadata_props.add(key=key, value=value)

    def finished(self) -> onnx.ModelProto:
        """The model with its nodes in topological order, without constants that nothing reads, checked."""
        graph = self.model.graph
        ordered = _topological(list(graph.node), set(self.inputs) | set(self.initializers))
        for node in ordered:
            # Exporters write the trace of each node's origin, often more bytes than the quantized weights take.
            del node.metadata_props[:]
            node.doc_string = ""
        del graph.node[:]
        graph.node.extend(ordered)
        self.refresh()
        kept = [t for t in graph.initializer if self.consumers.get(t.name) or t.name in self.outputs]
        names = {tensor.name for tensor in kept}
        inputs = [v for v in graph.input if v.name in names or v.name not in self.initializers]
        tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
        # Runtimes fuse more where shapes are known that they can't infer, so what the exporter wrote is kept.
        described = [v for v in graph.value_info if v.name in self.producers]
        described = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in described]
        del graph.initializer[:], graph.value_info[:]
        graph.value_info.extend(described)
        graph.initializer.extend(tensors)
        values = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in inputs]
        del graph.input[:]
        graph.input.extend(values)
        onnx.checker.check_model(skeleton(self.model))
        return self.model


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The graphs inside a node, such as the branches of an If."""
    for entry in node.attribute:
        yield from (*entry.graphs, *((entry.g,) if entry.HasField("g") else ()))


def _captured_names(node: onnx.NodeProto) -> Iterable[str]:
    """Names that the node's subgraphs read, at any depth."""
    for inner in subgraphs(node):
        for child in inner.node:
            yield from child.input
            yield from _captured_names(child)
        yield from (value.name for value in inner.output)


def _topological(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """The same nodes, each after those whose outputs it reads, else in their own order."""
    made_by = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    done: list[onnx.NodeProto] = []
    state = [0] * len(nodes)
    for root in range(len(nodes)):
        stack = [root]
        while stack:
            i = stack[-1]
            if state[i] == 2:
                stack.pop()
                continue
            reads = (*nodes[i].input, *_captured_names(nodes[i]))
            missing = [made_by[n] for n in reads if n in made_by and n not in known and state[made_by[n]] == 0]
            if state[i] == 0 and missing:
                state[i] = 1
                stack.extend(reversed(missing))
                continue
            state[i] = 2
            done.append(onnx.NodeProto.FromString(nodes[i].SerializeToString()))
            stack.pop()
    return done
