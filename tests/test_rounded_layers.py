"""Static quantization whose weights are rounded by what their layers read, and whose biases are corrected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from paring.graph.onnx_graph import Graph
from paring.graph.placement import planned
from paring.techniques.base import GraphTechnique
from paring.techniques.calibration import observe
from paring.techniques.layer_damage import layer_damage
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.weight_quantization import WeightQuantization
from tests.quantization_nets import (
    Array,
    job,
    make,
    node,
    operators,
    perceptron,
    relative_error,
    residual_net,
    rows,
    run,
    weights,
)

CONVOLUTION = {"pads": [1, 1, 1, 1]}


def correlated(*shape: int) -> Array:
    """Positive rows whose columns go together, as behind a rectifier."""
    draw = np.random.default_rng(3)
    common = draw.normal(size=(shape[0], *[1] * (len(shape) - 1)))
    return np.maximum(common + 0.5 * draw.normal(size=shape) + 0.5, 0).astype(np.float32)


def layer(op: str, *, bias: bool, **attributes: Any) -> onnx.ModelProto:
    """One layer: a convolution of images, or a linear layer of vectors."""
    if op == "Conv":
        shape, weight = (6, 5, 5), weights(8, 6 // attributes.get("group", 1), 3, 3)
        free: tuple[str, ...] = ("h", "w")
    else:
        shape, weight, free = (24,), weights(8, 24) if attributes.get("transB") else weights(24, 8), ()
    named = " b" if bias and op != "MatMul" else ""
    nodes = [node(op, f"x w{named}", "y" if op != "MatMul" or not bias else "m", **attributes)]
    if op == "MatMul" and bias:
        nodes.append(node("Add", "b m", "y"))
    constants = {"w": weight, **({"b": weights(8, seed=4)} if bias else {})}
    return make(nodes, {"x": ("n", *shape)}, {"y": ("n", 8, *free)}, constants)


@pytest.mark.parametrize("model", [residual_net(), perceptron(alpha=0.5, beta=2.0)])
@pytest.mark.parametrize("weights", ["int4", "ternary"])
def test_outputs_are_nearer_where_rounding_knows_what_layers_read(model: onnx.ModelProto, weights: str) -> None:
    size = (3, 8, 8) if len(model.graph.input[0].type.tensor_type.shape.dim) == 4 else (64,)
    x = correlated(256, *size)
    expected = run(model, x)[0]

    def error(rounding: Literal["nearest", "gptq", "learned"], **settings: Any) -> float:
        technique = StaticQuantization(weights=weights, rounding=rounding, scales="mse", **settings)
        return relative_error(run(technique.apply(model, job(x)), x)[0], expected)

    nearest = error("nearest")
    assert error("gptq") < 0.8 * nearest
    assert error("learned") < 0.8 * nearest
    assert error("nearest", bias_correction=True) < nearest
    assert error("learned", bias_correction=True) < 0.8 * nearest


@pytest.mark.parametrize(
    ("op", "bias", "attributes", "rounding"),
    [
        ("Conv", True, CONVOLUTION, "gptq"),
        ("Conv", False, CONVOLUTION, "nearest"),
        ("Conv", True, {**CONVOLUTION, "group": 2}, "learned"),
        ("Gemm", False, {"transB": 1}, "nearest"),
        ("Gemm", True, {"alpha": 0.5, "beta": 2.0}, "gptq"),
        ("MatMul", True, {}, "nearest"),
    ],
)
def test_corrected_biases_keep_the_means_of_outputs(
    op: str, bias: bool, attributes: dict[str, Any], rounding: Literal["nearest", "gptq", "learned"]
) -> None:
    model = layer(op, bias=bias, **attributes)
    x = correlated(128, *((6, 5, 5) if op == "Conv" else (24,)))
    means = []
    for correct in (None, False, True):
        technique = StaticQuantization(
            weights="int2", rounding=rounding, placement="inputs-only", bias_correction=bool(correct)
        )
        answers = run(model if correct is None else technique.apply(model, job(x)), x)[0]
        means.append(np.moveaxis(answers, 1, 0).reshape(8, -1).mean(axis=1))
    before, after = (float(np.abs(each - means[0]).max()) for each in means[1:])
    assert before > 0.02
    assert after < 0.1 * before


def test_what_is_added_behind_a_product_takes_its_shift() -> None:
    technique = StaticQuantization(weights="int2", placement="inputs-only", bias_correction=True)
    x = correlated(128, 24)
    for bias in (True, False):
        assert operators(technique.apply(layer("MatMul", bias=bias), job(x)))["Add"] == 1


@pytest.mark.parametrize(
    ("technique", "free"),
    [
        (WeightQuantization("int3", None, rounding="gptq"), True),
        (WeightQuantization("int3", None, rounding="learned", power_of_two=True), False),
        (WeightQuantization("mxfp4", rounding="learned"), False),
        (StaticQuantization(weights="int3", rounding="learned"), True),
        (StaticQuantization(weights="int3", rounding="gptq", power_of_two=True), False),
    ],
    ids=str,
)
def test_scales_go_with_the_rounding_where_they_may_be_any_number(technique: GraphTechnique, free: bool) -> None:
    x = correlated(128, 64)
    found = [each.apply(perceptron(), job(x)) for each in (technique, replace(technique, rounding="nearest"))]
    one, other = ({t.name: onnx.numpy_helper.to_array(t) for t in g.graph.initializer if "w0" in t.name} for g in found)
    assert set(one) == set(other)
    kept = [np.array_equal(value, other[name]) for name, value in one.items() if "scale" in name]
    assert kept
    assert all(kept) is not free


def test_a_bias_that_counts_for_nothing_stays_so() -> None:
    model, x = layer("Gemm", bias=True, beta=0.0), correlated(128, 24)
    technique = StaticQuantization(weights="int4", placement="inputs-only", bias_correction=True)
    assert relative_error(run(technique.apply(model, job(x)), x)[0], run(model, x)[0]) < 0.2


def test_the_damage_of_a_layer_is_that_of_its_own_rounding() -> None:
    model, x = residual_net(), correlated(64, 3, 8, 8)
    found = []
    for correct in (False, True):
        technique = StaticQuantization(weights="int3", bias_correction=correct)
        graph = Graph(model)
        plan = planned(graph, "inputs-only")
        inputs = {node.name: node.input[0] for node in graph.nodes if node.name in plan.layers}
        task = job(x)
        seen = observe(graph.model, list(inputs.values()), task)
        found.append(layer_damage(technique, graph.model, inputs, seen, task))
    assert found[0] == found[1]


def test_graphs_of_nearest_levels_observe_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    task = job(rows(16, 64))
    once = type(task).once
    monkeypatch.setattr(type(task), "once", lambda self, key, see: asked.append(key) or once(self, key, see))
    StaticQuantization(weights="int4").apply(perceptron(), task)
    assert not any("moments" in key for key in asked)
    StaticQuantization(weights="int4", bias_correction=True).apply(perceptron(), task)
    assert any("moments" in key for key in asked)
