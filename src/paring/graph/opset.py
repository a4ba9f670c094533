"""Which version of ONNX's operators a graph is written in, and the same graph in one that techniques can edit."""

from __future__ import annotations

import onnx
from onnx import version_converter

from paring.errors import TechniqueError, in_words
from paring.graph.onnx_layers import skeleton

LEAST_OPSET = 13
"""The first with integer weights that have a scale for each channel, and with bfloat16."""

WIDE_OPSET = 21
"""The first with integers of 16 bits."""


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model is written in."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def modernized(model: onnx.ModelProto, least: int = LEAST_OPSET) -> onnx.ModelProto:
    """The model itself, or one that answers the same in opset `least` where it is older; layers keep their names.

    Raises TechniqueError where ONNX's own converter fails on it.
    """
    if opset(model) >= least:
        return model
    try:
        after = version_converter.convert_version(skeleton(model), least)
    except Exception as error:  # Its C++ raises whatever an operator's adapter does.
        raise TechniqueError(
            f"techniques need ONNX opset {least} or later, this graph has {opset(model)}, and "
            f"onnx.version_converter fails on it ({in_words(error)}): export it again with opset {least}."
        ) from error
    stored = {tensor.name for tensor in after.graph.initializer}
    after.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in stored)
    del after.graph.input[:]
    after.graph.input.extend(model.graph.input)
    after.metadata_props.extend(model.metadata_props)
    return after
