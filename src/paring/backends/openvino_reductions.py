"""Reductions that OpenVINO's CPU plugin would join to what reads them, and then answer wrongly, are kept apart.

Found with 2026.4.1: a multiplication or addition by channel behind a reduction of a tensor with 3 axes that drops an
axis takes the wrong numbers; a maximum or minimum in front of a quantization is rounded to whole numbers. A maximum
with the least number there is changes nothing, and ends what is joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

AXES = 3
ROUNDED = ("ReduceMax", "ReduceMin")


def part_reductions_(model: Any) -> None:
    """Put a maximum between such reductions and their readers, in an `openvino.Model`."""
    from openvino import Type, opset13

    for node in model.get_ordered_ops():
        if node.get_type_name().startswith("Reduce") and node.get_output_element_type(0) == Type.f32:
            for reader in list(_joined(node)):
                least = opset13.constant(np.float32(np.finfo(np.float32).min))
                reader.replace_source_output(opset13.maximum(node.output(0), least).output(0))


def _joined(node: Any) -> Iterator[Any]:
    """The inputs that read it and would be computed with it, to the wrong result."""
    rank = node.input(0).get_partial_shape().rank
    drops_one = not node.get_keep_dims() and rank.is_static and rank.get_length() == AXES
    for reader in node.output(0).get_target_inputs():
        kind = reader.get_node().get_type_name()
        quantizes = kind == "FakeQuantize" and node.get_type_name() in ROUNDED
        if kind != "Result" and (drops_one or quantizes):
            yield reader
