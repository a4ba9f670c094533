"""How an ONNX graph is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from paring.errors import TaskError, in_words
from paring.types import Signature, Structure, TensorSpec


def read_graph(path: Path) -> onnx.GraphProto:
    """The graph of a file, without weights that lie beside it. Raises TaskError where it is none."""
    if not path.is_file():
        raise TaskError(f"no such model file: {path}.")
    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise TaskError(f"{path} is not an ONNX graph: {in_words(error)}.") from error


def graph_signature(graph: onnx.GraphProto, input_structure: Structure) -> Signature:
    """Inputs (without weights that are listed as inputs) and outputs of a graph; several outputs are a tuple."""
    weights = {initializer.name for initializer in graph.initializer}
    inputs = tuple(_spec(value) for value in graph.input if value.name not in weights)
    outputs = tuple(_spec(value) for value in graph.output)
    if not inputs or not outputs:
        raise TaskError(f"the graph {graph.name!r} has {len(inputs)} inputs and {len(outputs)} outputs: it needs both.")
    return Signature(inputs, outputs, input_structure, "tensor" if len(outputs) == 1 else "tuple")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor: Any = value.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
    if not sizes:
        raise TaskError(f"{value.name!r} of the graph is a scalar: every input and output needs the batch as axis 0.")
    if sizes[0] is not None:
        raise TaskError(
            f"{value.name!r} of the graph has a fixed batch of {sizes[0]}: export it with a dynamic axis 0."
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return TensorSpec(value.name, dtype, tuple(sizes))
