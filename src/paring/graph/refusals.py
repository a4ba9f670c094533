"""Graphs that techniques refuse: what is quantized already, and weights that are no numbers."""

from __future__ import annotations

import re

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from paring.errors import TechniqueError
from paring.graph.onnx_graph import attribute
from paring.graph.placement import LAYERS

QUANTIZED = re.compile("[Qq]uantize|Integer|^Q[A-Z]")
"""In the names of operators that compute with integers, ONNX's own and ONNX Runtime's: QLinearConv, QAttention."""

NARROW = re.compile("NBits|Bnb4|FpQ4")
"""In those of ONNX Runtime's operators whose weights alone are integers."""

NARROWED = "paring.narrow_weights"
"""Metadata of a graph of which paring made some weights narrow: what it left can be made so by another technique."""

SHIFTED = (*LAYERS, "PRelu", "LSTM", "GRU", "RNN")
NORMALISATIONS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization")
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def require_float_graph(model: onnx.ModelProto, technique: str, *, after_own: bool = False) -> None:
    """Raise TechniqueError where the graph is quantized already, or holds weights that are NaN or infinite.

    With `after_own` weights alone may be narrow where paring made them so.
    """
    own = after_own and any(entry.key == NARROWED for entry in model.metadata_props)
    integer = _dequantizing(model) if not own else frozenset()
    for node in model.graph.node:
        told = node.name or node.output[0]
        kind = f"{node.op_type} {told!r}"
        if node.op_type in LAYERS and node.input[1] in integer:
            kind = f"the weight of {kind}, which is made of integers,"
        elif not QUANTIZED.search(node.op_type) and (own or not NARROW.search(node.op_type)):
            continue
        raise TechniqueError(
            f"{technique} needs a float graph, but {kind} shows that this one is quantized already: give it the "
            "original."
        )
    require_finite(model)


def require_finite(model: onnx.ModelProto) -> None:
    """Raise TechniqueError that names a constant which holds NaN, or a layer's or normalisation's that is infinite.

    Infinity in other constants is meant: an attention mask holds it.
    """
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    for name, tensor in _constants(model).items():
        value = numpy_helper.to_array(tensor) if tensor.data_type in _FLOATS else np.zeros(0)
        if np.isfinite(value).all():
            continue
        reader = readers.get(name)
        kind = "" if reader is None else reader.op_type
        if kind in (*SHIFTED, *NORMALISATIONS) or np.isnan(value).any():
            by = f" (read by {reader.name or reader.output[0]!r})" if reader is not None else ""
            raise TechniqueError(f"weight {name!r} holds NaN or infinity{by}: check the network's training.")


def _constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Constants that no caller can override, by name, also those that nodes hold."""
    overridden = {value.name for value in model.graph.input}
    found = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in overridden}
    for node in model.graph.node:
        value = attribute(node, "value", None) if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            found[node.output[0]] = value
    return found


def _dequantizing(model: onnx.ModelProto) -> frozenset[str]:
    """Tensors that are computed from constants alone, of which some are integers of few bits."""
    made = {name: tensor.data_type in _INTEGERS for name, tensor in _constants(model).items()}
    for node in model.graph.node:
        if node.input and all(name in made for name in node.input if name):
            made.update(dict.fromkeys(node.output, any(made[name] for name in node.input if name)))
    return frozenset(name for name, integer in made.items() if integer)
