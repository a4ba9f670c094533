"""How far quantizing one layer alone moves a network's outputs, measured for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from paring.backends.runner import graph_runner
from paring.data.batches import in_pieces
from paring.data.job import Job
from paring.graph.learned import Learned
from paring.graph.onnx_graph import Graph
from paring.graph.switch import NO_LAYER, switchable
from paring.techniques.calibration import fingerprint, graph_inputs
from paring.techniques.static_quantization import Seen, StaticQuantization
from paring.types import Arrays

SENSITIVITY_ROWS = 64


def layer_damage(
    quantization: StaticQuantization, graph: onnx.ModelProto, inputs: Mapping[str, str], seen: Seen, job: Job
) -> dict[str, float]:
    """For each layer the outputs' distance from the float ones where it alone is in integers.

    "Integer Quantization for Deep Learning Inference" (Wu et al., 2020, section 5.1). Differs in the measure: squared
    distance of the outputs from the float graph's, relative to their variance, on at most 64 calibration rows, because
    that needs no labels. `inputs` holds the tensor that each layer reads.
    """
    key = f"damage of {quantization!r} in {fingerprint(graph)}"
    return job.once(key, lambda: _damage(quantization, graph, inputs, seen, job))


def _damage(
    quantization: StaticQuantization, graph: onnx.ModelProto, inputs: Mapping[str, str], seen: Seen, job: Job
) -> dict[str, float]:
    parameters = {name: quantization.parameters(seen[name]) for name in inputs.values()}
    editable = Graph(graph)
    # The float layers beside the one that is quantized need the biases that they have.
    weighing = replace(quantization.weighing, bias_correction=False)
    weigh = weighing.prepared(editable, list(inputs), job, Learned())
    model, switch = switchable(editable, list(inputs), parameters, weigh)
    damage = dict.fromkeys(inputs, 0.0)
    left = SENSITIVITY_ROWS
    with graph_runner(model, threads=job.threads, deadline_s=job.end_s) as session:
        for batch in graph_inputs(graph, job):
            for piece in in_pieces(batch, SENSITIVITY_ROWS):
                if left <= 0:
                    return damage
                rows = len(next(iter(piece.values())))
                left -= rows
                reference = session.run(piece | {switch: np.full(rows, NO_LAYER)})
                for number, name in enumerate(inputs):
                    job.check_time()
                    damage[name] += distance(session.run(piece | {switch: np.full(rows, number)}), reference)
    return damage


def distance(outputs: Arrays, reference: Arrays) -> float:
    """Mean squared difference relative to the reference's variance, summed over the float outputs."""
    total = 0.0
    for name, expected in reference.items():
        if np.issubdtype(expected.dtype, np.floating) and expected.size:
            error = np.mean(np.square(outputs[name].astype(np.float64) - expected))
            total += float(error / max(float(np.var(expected)), 1e-12))
    return total
