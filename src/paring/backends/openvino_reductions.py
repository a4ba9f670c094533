"""Reductions that OpenVINO's CPU plugin would join to what reads them, and then answer wrongly, are kept apart.

Found with 2026.4.1: behind a reduction of a tensor with 3 axes a multiplication or addition by channel takes the wrong
numbers; with a fourth axis, which is taken away again behind it, the right ones. In a quantized network such a
multiplication may come from in front, by a scale. A maximum or minimum that a quantization follows, at once or later,
is rounded to whole numbers; a maximum with minus infinity between changes nothing, and ends that. What the plugin
recognises as a normalisation or a softmax stays whole, where nothing is quantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

AXES = 3
ROUNDED = ("ReduceMax", "ReduceMin")
ROOTS = ("Sqrt", "Power")


def part_reductions_(model: Any) -> None:
    """Give such reductions in an `openvino.Model` a fourth axis, or a maximum behind them.

    An output that is a reduction may lose its name.
    """
    from openvino import opset13

    makers = {
        "ReduceMax": opset13.reduce_max,
        "ReduceMin": opset13.reduce_min,
        "ReduceMean": opset13.reduce_mean,
        "ReduceSum": opset13.reduce_sum,
        "ReduceProd": opset13.reduce_prod,
        "ReduceL1": opset13.reduce_l1,
        "ReduceL2": opset13.reduce_l2,
    }
    nodes = model.get_ordered_ops()
    is_quantized = any(node.get_type_name() == "FakeQuantize" for node in nodes)
    for node in nodes:
        kind = node.get_type_name()
        if kind not in makers:
            continue
        given, value = node.output(0), node.input_value(0)
        readers = [each for each in given.get_target_inputs() if is_quantized or _joins(each)]
        if not readers:
            continue
        kind_of_numbers = value.get_element_type()
        if _has_three_axes(value):
            # Counted from the first; some are computed by the network, until it is compiled.
            axes = opset13.floor_mod(
                node.input_value(1), opset13.constant(AXES, node.input_value(1).get_element_type())
            )
            wide = makers[kind](opset13.unsqueeze(value, np.int64(AXES)), axes, node.get_keep_dims())
            given = opset13.squeeze(wide, np.int64(-1)).output(0)
        if kind in ROUNDED and kind_of_numbers.is_real():
            least = opset13.constant(-np.inf, kind_of_numbers)
            given = opset13.maximum(given, least).output(0)
        if given != node.output(0):
            for reader in readers:
                reader.replace_source_output(given)


def _has_three_axes(value: Any) -> bool:
    rank = value.get_partial_shape().rank
    return bool(rank.is_static and rank.get_length() == AXES)


def _joins(reader: Any) -> bool:
    """Whether a reader is computed with what it reads there: it reads nothing else, but constants."""
    node = reader.get_node()
    if node.get_type_name() == "Result":
        return False
    others = [value for place, value in enumerate(node.input_values()) if place != reader.get_index()]
    return all(_constant(each) for each in others) and not _keeps_roots_finite(node, others)


def _constant(value: Any) -> bool:
    node = value.get_node()
    read = [each.get_node() for each in node.input_values()] if node.get_type_name() == "Convert" else [node]
    return all(each.get_type_name() == "Constant" for each in read)


def _keeps_roots_finite(reader: Any, others: list[Any]) -> bool:
    """Whether it adds the small number of a normalisation."""
    roots = (each.get_node().get_type_name() in ROOTS for each in reader.output(0).get_target_inputs())
    scalars = all(np.prod(each.get_shape()) == 1 for each in others)
    return reader.get_type_name() == "Add" and scalars and any(roots)
