"""Coverage of graph techniques, read off the graphs before and after."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import weighted_layers
from paring.types import Coverage, LayerChange

MOST_REASONS = 3


def layer_coverage(
    technique: str,
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    reasons: Mapping[str, str],
    otherwise: str = "",
) -> Coverage:
    """Which layers read another weight now than before, or are gone; for the rest the reason, or `otherwise`.

    A reason that is given for a layer that was changed tells how.
    """
    named = Graph(before).model
    untouched = {(layer.name, layer.weight) for layer in weighted_layers(Graph(after).model)}
    changes = []
    for layer in weighted_layers(named):
        changed = (layer.name, layer.weight) not in untouched
        reason = reasons.get(layer.name) or ("" if changed else otherwise)
        changes.append(LayerChange(layer.name, changed, reason, layer.parameters, layer.macs))
    return Coverage(technique, tuple(changes))


def nothing_fits(told: str, reasons: Mapping[str, str]) -> TechniqueError:
    """The error for a network in which no layer can be changed: each reason once, with the first layer that has it."""
    first: dict[str, str] = {}
    for layer, reason in reasons.items():
        first.setdefault(reason, layer)
    named = [f"{layer!r}: {reason}" if layer else reason for reason, layer in first.items()][:MOST_REASONS]
    return TechniqueError(f"{told} ({'; '.join(named) or 'the network has no such layers'}).")
