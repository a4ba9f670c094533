"""Coverage of graph techniques, read off the graphs before and after."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import weighted_layers
from paring.types import Coverage, LayerChange


def layer_coverage(
    technique: str, before: onnx.ModelProto, after: onnx.ModelProto, reasons: Mapping[str, str], otherwise: str
) -> Coverage:
    """Which layers read another weight now than before, or are gone; for the rest the reason, or `otherwise`."""
    named = Graph(before).model
    untouched = {(layer.name, layer.weight) for layer in weighted_layers(Graph(after).model)}
    changes = []
    for layer in weighted_layers(named):
        changed = (layer.name, layer.weight) not in untouched
        reason = "" if changed else reasons.get(layer.name) or otherwise
        changes.append(LayerChange(layer.name, changed, reason, layer.parameters, layer.macs))
    return Coverage(technique, tuple(changes))
