"""How an ONNX graph is called."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from paring.errors import TaskError, in_words
from paring.graph.onnx_layers import skeleton
from paring.types import Signature, Structure, TensorSpec

WITHOUT_LISTED_WEIGHTS = 4
"""The first version of the format whose constants need not be among a graph's inputs."""


def load_model(path: Path, given: Container[str] = ()) -> onnx.ModelProto:
    """The model of a file with its weights, its inputs settled by those that are `given`."""
    model = _with_shapes(path)
    settle_inputs_(model.graph, given)
    model.ir_version = max(model.ir_version, WITHOUT_LISTED_WEIGHTS)
    return model


def _with_shapes(path: Path) -> onnx.ModelProto:
    """The model of a file; an output that records no shape has the inferred one.

    The format lets a graph leave these shapes out, and runtimes find them by themselves, but tools refuse it then.
    """
    model = onnx.load(path)
    if missing := _without_shape(model.graph):
        for found in onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True).graph.output:
            if found.name in missing:
                missing[found.name].CopyFrom(found)
    return model


def read_graph(path: Path) -> onnx.GraphProto:
    """The graph of a file as it is, weights beside it left there, its outputs with shapes.

    Raises TaskError where it is none.
    """
    if not path.is_file():
        raise TaskError(f"no such model file: {path}.")
    try:
        graph = onnx.load(path, load_external_data=False).graph
        # Shapes may be computed from constants beside the file.
        return _with_shapes(path).graph if _without_shape(graph) else graph
    except Exception as error:
        raise TaskError(f"{path} is not an ONNX graph: {in_words(error)}.") from error


def optional_inputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The inputs that have a value in the file, which callers may override: older exporters list all weights so."""
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(value.name for value in graph.input if value.name in stored)


def settle_inputs_(graph: onnx.GraphProto, given: Container[str]) -> None:
    """Make each optional input, in place, one like the others where it is given, and a constant where it is not."""
    names = frozenset(optional_inputs(graph))
    for tensor in [tensor for tensor in graph.initializer if tensor.name in names and tensor.name in given]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.input if value.name in names and value.name not in given]:
        graph.input.remove(value)


def _without_shape(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """The outputs that record none, by name."""
    return {value.name: value for value in graph.output if not value.type.tensor_type.HasField("shape")}


def graph_signature(graph: onnx.GraphProto, input_structure: Structure) -> Signature:
    """Inputs (without weights that are listed as inputs) and outputs of a graph; several outputs are a tuple.

    Raises TaskError for what is no tensor with a dynamic batch as axis 0.
    """
    weights = {initializer.name for initializer in graph.initializer}
    inputs = tuple(_spec(value) for value in graph.input if value.name not in weights)
    outputs = tuple(_spec(value) for value in graph.output)
    if not inputs or not outputs:
        raise TaskError(f"the graph {graph.name!r} has {len(inputs)} inputs and {len(outputs)} outputs: it needs both.")
    return Signature(inputs, outputs, input_structure, "tensor" if len(outputs) == 1 else "tuple")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor: Any = value.type.tensor_type
    kind = value.type.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        raise TaskError(
            f"{value.name!r} of the graph is of type {kind.removesuffix('_type')}: every input and output must be a "
            "tensor, so export it without the step that makes it one."
        )
    if not tensor.HasField("shape"):
        raise TaskError(
            f"{value.name!r} of the graph has no recorded shape, and none can be inferred: "
            "export it with the shapes of its inputs and outputs, axis 0 dynamic."
        )
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
    if not sizes:
        raise TaskError(f"{value.name!r} of the graph is a scalar: every input and output needs the batch as axis 0.")
    if sizes[0] is not None:
        raise TaskError(
            f"{value.name!r} of the graph has a fixed batch of {sizes[0]}: export it with a dynamic axis 0."
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return TensorSpec(value.name, dtype, tuple(sizes))
