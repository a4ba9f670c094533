"""Reductions that OpenVINO's CPU plugin would join to what reads them, and then answer wrongly, are kept apart.

Found with 2026.4.1: behind a reduction of a tensor with 3 axes a multiplication or addition by channel takes the wrong
numbers; a maximum or minimum that ends in a quantization is rounded to whole numbers. The maximum of such a reduction
and the least number there is changes nothing, and ends what is joined. Patterns that the plugin recognises as a
normalisation or a softmax stay whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

AXES = 3
ROUNDED = ("ReduceMax", "ReduceMin")
ROOTS = ("Sqrt", "Power")


def part_reductions_(model: Any) -> None:
    """Put a maximum between such reductions and their readers, in an `openvino.Model`."""
    from openvino import Type, opset13

    for node in model.get_ordered_ops():
        if _answers_wrongly(node) and node.get_output_element_type(0) == Type.f32:
            for reader in node.output(0).get_target_inputs():
                if _joins(reader.get_node(), reader.get_index()):
                    least = opset13.constant(np.float32(np.finfo(np.float32).min))
                    reader.replace_source_output(opset13.maximum(node.output(0), least).output(0))


def _answers_wrongly(node: Any) -> bool:
    """Whether it would with some reader."""
    kind = node.get_type_name()
    rank = node.input(0).get_partial_shape().rank if kind.startswith("Reduce") else None
    return kind in ROUNDED or (rank is not None and rank.is_static and rank.get_length() == AXES)


def _joins(reader: Any, place: int) -> bool:
    """Whether it is computed with what it reads there: it reads nothing else, but constants."""
    if reader.get_type_name() == "Result":
        return False
    others = [value for number, value in enumerate(reader.input_values()) if number != place]
    return all(_constant(each) for each in others) and not _keeps_roots_finite(reader, others)


def _constant(value: Any) -> bool:
    node = value.get_node()
    read = [each.get_node() for each in node.input_values()] if node.get_type_name() == "Convert" else [node]
    return all(each.get_type_name() == "Constant" for each in read)


def _keeps_roots_finite(reader: Any, others: list[Any]) -> bool:
    """Whether it adds the small number of a normalisation."""
    roots = (each.get_node().get_type_name() in ROOTS for each in reader.output(0).get_target_inputs())
    scalars = all(np.prod(each.get_shape()) == 1 for each in others)
    return reader.get_type_name() == "Add" and scalars and any(roots)
