"""What moves scales between layers leaves weights alone that somebody else reads: untied, the network would grow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from paring.techniques import AWQ, CrossLayerEqualization, SmoothQuant
from paring.techniques.base import GraphTechnique
from tests.quantization_nets import job, make, node, rows, run, weights


def tied(*, transposed: bool) -> onnx.ModelProto:
    """A layer normalisation, one weight twice with a rectifier between, and a last layer of its own."""
    names = ("t", "t") if transposed else ("w", "w")
    turned = [node("Transpose", "w", "t", perm=[1, 0])] if transposed else []
    return make(
        [
            *turned,
            node("LayerNormalization", "x scale shift", "n"),
            node("MatMul", f"n {names[0]}", "h"),
            node("Relu", "h", "r"),
            node("MatMul", f"r {names[1]}", "i"),
            node("Relu", "i", "s"),
            node("MatMul", "s last", "y"),
        ],
        {"x": ("n", 32)},
        {"y": ("n", 4)},
        {
            "scale": np.geomspace(0.1, 10, 32).astype(np.float32),
            "shift": weights(32, seed=1),
            "w": weights(32, 32, seed=2) * np.geomspace(0.1, 10, 32).astype(np.float32),
            "last": weights(32, 4, seed=3),
        },
    )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "technique",
    [
        SmoothQuant(),
        SmoothQuant(anywhere=True),
        AWQ("int3", 16),
        AWQ("int3", 16, anywhere=True),
        CrossLayerEqualization(),
    ],
    ids=str,
)
def test_a_weight_that_is_read_twice_stays_one(technique: GraphTechnique, transposed: bool) -> None:
    model, x = tied(transposed=transposed), rows(16, 32)
    found = technique.apply(model, job(x))
    large = [each.name for each in found.graph.initializer if each.dims == [32, 32]]
    assert large == ["w"]
    np.testing.assert_allclose(run(found, x)[0], run(model, x)[0], rtol=1e-3, atol=1e-3)
    told = {layer.layer: layer for layer in technique.coverage(model, found, job(x)).layers}
    for name, other in (("MatMul_h", "MatMul_i"), ("MatMul_i", "MatMul_h")):
        assert not told[name].changed
        assert told[name].reason == f"its weight is also read by {other}"
    assert told["MatMul_y"].changed == getattr(technique, "anywhere", False)


@pytest.mark.parametrize("technique", [SmoothQuant(), AWQ("int3", 16), CrossLayerEqualization()], ids=str)
def test_a_weight_that_is_an_output_stays_one(technique: GraphTechnique) -> None:
    model, x = tied(transposed=False), rows(16, 32)
    model.graph.node[1].input[1] = "first"
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights(32, 32, seed=4), "first"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, [32, 32]))
    found = technique.apply(model, job(x))
    assert sum(each.dims == [32, 32] for each in found.graph.initializer) == 2
    told = {layer.layer: layer for layer in technique.coverage(model, found, job(x)).layers}
    assert told["MatMul_h"].reason == "its weight is an output too"
