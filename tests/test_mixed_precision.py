"""Mixed precision: the layers that measurably hurt most go back to float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from paring.errors import TechniqueError
from paring.graph.learned import Learned
from paring.graph.onnx_graph import Graph
from paring.graph.switch import FLOAT_NOW, switchable
from paring.ops.quantization import Range, affine
from paring.techniques.layer_damage import alone, distance
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.weighing import Weighing
from tests.quantization_nets import (
    Array,
    constant,
    job,
    make,
    node,
    perceptron,
    relative_error,
    residual_net,
    rows,
    run,
    weights,
)

X = rows(48, 3, 8, 8)


def fragile_net() -> onnx.ModelProto:
    """Three layers; the input of the second has one channel a thousand times the others, which it hardly reads."""
    first, second = weights(16, 8, seed=1), weights(16, 16, seed=2)
    first[0] *= 1000
    second[:, 0] *= 1e-3
    return make(
        [
            node("Gemm", "x w0", "a", transB=1),
            node("Relu", "a", "ra"),
            node("Gemm", "ra w1", "b", transB=1),
            node("Relu", "b", "rb"),
            node("Gemm", "rb w2", "y", transB=1),
        ],
        {"x": ("n", 8)},
        {"y": ("n", 4)},
        {"w0": first, "w1": second, "w2": weights(4, 16, seed=3)},
    )


@pytest.mark.parametrize("placement", ["every-edge", "inputs-only"])
def test_the_fragile_layer_is_found_and_floating_it_helps(placement: str) -> None:
    model, x = fragile_net(), rows(64, 8)
    int8 = StaticQuantization(placement=placement)  # type: ignore[arg-type]
    technique = MixedPrecision(int8, 1)
    graph = technique.apply(model, job(x))
    onnx.checker.check_model(graph, full_check=True)
    layers = technique.coverage(model, graph, job(x)).layers
    assert [layer.changed for layer in layers] == [True, False, True]
    assert "hurt most" in layers[1].reason
    expected = run(model, x)[0]
    mixed, whole = (relative_error(run(g, x)[0], expected) for g in (graph, int8.apply(model, job(x))))
    assert mixed < 0.5 * whole


def test_it_equals_int8_with_the_same_layers_excluded() -> None:
    technique = MixedPrecision(StaticQuantization("mse"), 2)
    graph = technique.apply(residual_net(), job(X))
    floated = tuple(layer.layer for layer in technique.coverage(residual_net(), graph, job(X)).layers if layer.reason)
    assert len(floated) == 2
    expected = StaticQuantization("mse", exclude=floated).apply(residual_net(), job(X))
    np.testing.assert_array_equal(run(graph, X[:5])[0], run(expected, X[:5])[0])


def test_switches_float_one_layer_at_a_time() -> None:
    """Against the plain way: a graph for each layer, its weight and input quantized in NumPy."""
    model, x = fragile_net(), rows(32, 8)
    seen = {"x": x, "ra": np.maximum(x @ constant(model, "w0").T, 0)}
    seen["rb"] = np.maximum(seen["ra"] @ constant(model, "w1").T, 0)
    ranges = {name: affine(Range(float(v.min()), float(v.max()))) for name, v in seen.items()}
    names = ["Gemm_a", "Gemm_b", "Gemm_y"]
    editable = Graph(model)
    weigh = Weighing().prepared(editable, names, job(x), Learned())
    graph, switch = switchable(editable, names, ranges, [weigh])
    assert switch == graph.graph.input[-1].name

    def answers(options: list[int]) -> Array:
        return run(graph, x, np.tile(options, (len(x), 1)), optimized=False)[0]

    np.testing.assert_allclose(answers([FLOAT_NOW] * 3), run(model, x)[0], rtol=1e-5, atol=1e-5)
    for number, name in enumerate(names):
        others = tuple(other for other in names if other != name)
        by_itself = StaticQuantization(placement="inputs-only", exclude=others).apply(model, job(x))
        np.testing.assert_allclose(
            answers(alone(3, number, 0)), run(by_itself, x, optimized=False)[0], rtol=1e-3, atol=2e-3
        )


def test_distance_is_relative_and_skips_integers() -> None:
    reference = {"a": rows(8, 4), "b": rows(8, 4) * 100, "ids": np.arange(8)}
    assert distance(reference, reference) == 0
    shifted = {"a": reference["a"] + 0.1, "b": reference["b"] + 10, "ids": np.zeros(8)}
    assert distance(shifted, reference) == pytest.approx(0.01 / np.var(reference["a"]) * 2, rel=1e-4)


def test_too_many_float_layers_are_refused() -> None:
    with pytest.raises(TechniqueError, match="float_layers=0"):
        MixedPrecision(StaticQuantization(), 0)
    with pytest.raises(TechniqueError, match=r"float_layers=4 .* has 4 such layers"):
        MixedPrecision(StaticQuantization(), 4).apply(residual_net(), job(X))
    broken = residual_net()
    weight = constant(broken, "w2").copy()
    weight[0, 0, 0, 0] = np.nan
    next(t for t in broken.graph.initializer if t.name == "w2").CopyFrom(numpy_helper.from_array(weight, "w2"))
    with pytest.raises(TechniqueError, match="'w2' holds NaN"):
        MixedPrecision(StaticQuantization(), 1).apply(broken, job(X))


def test_variants_leave_most_layers_in_integers() -> None:
    found = list(MixedPrecision.variants(residual_net(), job(X)))
    assert {variant.float_layers for variant in found} == {1}
    assert {variant.int8.placement for variant in found} == {"every-edge", "inputs-only"}
    assert found[0].settings()["int8"]["calibration"] == "mse"


def test_too_few_layers_are_the_reason_for_no_variants() -> None:
    with pytest.raises(TechniqueError, match="fewer than 3 layers can be int8"):
        next(MixedPrecision.variants(perceptron(), job(rows(4, 64))))
