"""What layers read and its moments: against the layers themselves as a runtime computes them, and slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.matrices import MOST_COLUMNS, as_rows, from_rows, matrix_reasons, reading
from paring.graph.onnx_graph import Graph
from paring.ops import moments as ops
from paring.ops.moments import Moments, Patches
from paring.techniques import calibration
from paring.techniques import moments as module
from paring.techniques.moments import layer_moments
from tests.quantization_nets import (
    Array,
    attention_block,
    constant,
    job,
    make,
    node,
    perceptron,
    residual_net,
    rows,
    run,
    token_ids,
    weights,
)

CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((3, 4, 7, 6), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 9, 8), (6, 4, 3, 2), {"strides": [2, 1], "pads": [1, 0, 0, 2]}),
    ((2, 4, 9, 9), (6, 4, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ((2, 6, 5, 5), (4, 3, 3, 3), {"group": 2}),
    ((2, 6, 5, 5), (12, 1, 3, 3), {"group": 6, "strides": [2, 2]}),
    ((2, 3, 7, 8), (5, 3, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((2, 3, 7, 8), (5, 3, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 1], "dilations": [1, 1]}),
    ((2, 3, 7, 8), (5, 3, 4, 3), {"auto_pad": "VALID"}),
    ((2, 3, 1, 1), (5, 3, 1, 1), {}),
    ((2, 3, 11), (5, 3, 4), {"strides": [2], "dilations": [2], "pads": [3, 1]}),
    ((2, 2, 5, 4, 6), (3, 2, 2, 1, 3), {"strides": [1, 2, 1]}),
]


def convolution(shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]) -> onnx.ModelProto:
    free = tuple("abcd"[: len(shape) - 2])
    return make(
        [node("Conv", "x w", "y", **attributes)],
        {"x": ("n", *shape[1:])},
        {"y": ("n", weight[0], *free)},
        {"w": weights(*weight)},
    )


def patches_of(graph: Graph, name: str, inputs: Array) -> Array:
    """All of them, shape (groups, some, columns)."""
    layer = next(each for each in graph.nodes if each.name == name)
    patches = reading(graph, layer).patches
    found = np.concatenate(list(patches.cut(inputs)), axis=1)
    assert found.shape[1] == patches.count(inputs.shape)
    return found


@pytest.mark.parametrize(("shape", "weight", "attributes"), CONVOLUTIONS)
@pytest.mark.parametrize("at_once", [2**22, 50])
def test_rows_times_patches_are_what_a_convolution_computes(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    attributes: dict[str, Any],
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ops, "ENTRIES_AT_ONCE", at_once)
    model, x = convolution(shape, weight, attributes), rows(*shape)
    graph = Graph(model)
    patches = patches_of(graph, "Conv_y", x)
    matrix = as_rows(graph.nodes[0], constant(model, "w"))
    np.testing.assert_array_equal(from_rows(graph.nodes[0], matrix, weight), constant(model, "w"))
    outputs = np.matmul(patches, matrix.reshape(len(patches), -1, matrix.shape[1]).swapaxes(1, 2))
    answers = np.moveaxis(run(model, x)[0], 1, -1)
    found = outputs.swapaxes(0, 1).reshape(answers.shape)
    np.testing.assert_allclose(found, answers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op", "attributes"), [("Gemm", {}), ("Gemm", {"transB": 1}), ("MatMul", {})])
def test_rows_times_inputs_are_what_a_linear_layer_computes(op: str, attributes: dict[str, Any]) -> None:
    weight = weights(7, 5) if attributes else weights(7, 5).T.copy()
    middle = (3,) if op == "MatMul" else ()
    model = make(
        [node(op, "x w", "y", **attributes)], {"x": ("n", *middle, 5)}, {"y": ("n", *middle, 7)}, {"w": weight}
    )
    x = rows(4, *middle, 5)
    graph = Graph(model)
    matrix = as_rows(graph.nodes[0], weight)
    assert matrix.shape == (7, 5)
    np.testing.assert_array_equal(from_rows(graph.nodes[0], matrix, weight.shape), weight)
    answers = run(model, x)[0]
    found = patches_of(graph, f"{op}_y", x)[0] @ matrix.T
    np.testing.assert_allclose(found.reshape(answers.shape), answers, rtol=1e-4, atol=1e-5)


def slow_moments(inputs: Array, kernel: int, stride: int, pad: int, groups: int) -> tuple[Array, Array, Array]:
    """Mean, mean magnitude and second moments of a square convolution's patches, one patch after the other."""
    size = inputs.shape[1] // groups
    padded = np.pad(inputs.astype(np.float64), [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    mean, magnitude = np.zeros((2, groups, size * kernel**2))
    second, count = np.zeros((groups, size * kernel**2, size * kernel**2)), 0
    for row in padded:
        for top in range(0, row.shape[1] - kernel + 1, stride):
            for left in range(0, row.shape[2] - kernel + 1, stride):
                count += 1
                for group in range(groups):
                    some = row[group * size : (group + 1) * size, top : top + kernel, left : left + kernel].reshape(-1)
                    mean[group] += some
                    magnitude[group] += np.abs(some)
                    second[group] += np.outer(some, some)
    return mean / count, magnitude / count, second / count


def grouped_net() -> onnx.ModelProto:
    return make(
        [
            node("Conv", "x w0", "c0", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", "c0", "r"),
            node("Conv", "r w1", "c1", pads=[1, 1, 1, 1], group=2),
            node("Conv", "r w2", "c2", group=4),
            node("ReduceMean", "c1", "m", axes=[2, 3], keepdims=0),
            node("Gemm", "m w3", "y", transB=1),
            node("ReduceMean", "c2", "z", axes=[2, 3], keepdims=0),
        ],
        {"x": ("batch", 3, 7, 7)},
        {"y": ("batch", 5), "z": ("batch", 4)},
        {"w0": weights(4, 3, 3, 3), "w1": weights(6, 2, 3, 3), "w2": weights(4, 1, 3, 3), "w3": weights(5, 6)},
    )


def gathered(model: onnx.ModelProto, task: Job) -> dict[str, Moments]:
    graph = Graph(model)
    return dict(layer_moments(graph, [name for name, reason in matrix_reasons(graph).items() if not reason], task))


def test_moments_of_all_layers_are_those_of_slow_loops() -> None:
    model, x = grouped_net(), rows(70, 3, 7, 7)
    found = gathered(model, job(x))
    inner = run(calibration.with_outputs(model, ["r", "m"]), x)
    relu, mean = inner[2], inner[3]
    for name, args in {
        "Conv_c0": (x, 3, 2, 1, 1),
        "Conv_c1": (relu, 3, 1, 1, 2),
        "Conv_c2": (relu, 3, 1, 0, 4),
    }.items():
        expected = slow_moments(*args)
        for value, wanted in zip((found[name].mean, found[name].magnitude, found[name].second), expected, strict=True):
            assert value.dtype == np.float64
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
    exact = mean.astype(np.float64)
    np.testing.assert_allclose(found["Gemm_y"].second[0], exact.T @ exact / 70, rtol=1e-5)
    np.testing.assert_allclose(found["Gemm_y"].covariance[0], np.cov(exact.T, bias=True), rtol=1e-4, atol=1e-7)


def test_sequences_count_each_position_and_readers_of_one_tensor_share_its_moments() -> None:
    found = gathered(attention_block(), job(token_ids(16)))
    assert set(found) == {"MatMul_q", "MatMul_k", "MatMul_o"}
    assert found["MatMul_q"] is found["MatMul_k"]
    read = run(calibration.with_outputs(attention_block(), ["n"]), token_ids(16))[1].reshape(-1, 32).astype(np.float64)
    np.testing.assert_allclose(found["MatMul_q"].second[0], read.T @ read / len(read), rtol=1e-4, atol=1e-6)
    assert found["MatMul_q"].count == 16 * 6


def test_turns_give_the_same_and_one_pass_serves_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    observed = module.observed

    def counted(*given: Any) -> Any:
        passes.append(1)
        return observed(*given)

    monkeypatch.setattr(module, "observed", counted)
    task = job(rows(20, 3, 8, 8))
    whole, again = gathered(residual_net(), task), gathered(residual_net(), task)
    assert len(passes) == 1
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 8 * 72**2)
    parts = gathered(residual_net(), task)
    assert len(passes) == 1 + 4
    assert set(whole) == set(again) == set(parts) == {"Conv_c0", "Conv_c1", "Conv_c2", "Gemm_y"}
    for name, value in whole.items():
        np.testing.assert_array_equal(value.second, again[name].second)
        np.testing.assert_allclose(value.second, parts[name].second, rtol=1e-6)


def test_a_graph_that_is_edited_meanwhile_is_observed_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 1)
    x = rows(8, 64)
    graph = Graph(perceptron())
    expected = gathered(perceptron(), job(x))
    layers = [each.name for each in graph.nodes if each.op_type == "Gemm"]
    for name, value in layer_moments(graph, layers, job(x)):
        np.testing.assert_allclose(value.second, expected[name].second, rtol=1e-6)
        layer = next(each for each in graph.nodes if each.name == name)
        layer.input[1] = graph.add_constant(np.zeros_like(graph.constant(layer.input[1])), "zeros")


def test_of_many_patches_a_share_tells_the_same_and_does_so_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(64, 3, 8, 8)
    whole = gathered(residual_net(), job(x))
    monkeypatch.setattr(module, "MOST_PATCHES", 1500)
    some, again = gathered(residual_net(), job(x)), gathered(residual_net(), job(x))
    assert whole["Conv_c0"].count == 64 * 64
    assert 1300 < some["Conv_c0"].count < 1700
    assert some["Gemm_y"].count == whole["Gemm_y"].count == 64
    for name in ("Conv_c0", "Conv_c1", "Conv_c2"):
        far = np.abs(some[name].second - whole[name].second).max() / np.abs(whole[name].second).max()
        assert far < 0.15
        np.testing.assert_array_equal(some[name].second, again[name].second)


def test_layers_that_can_not_be_told_so_say_why() -> None:
    wide = make(
        [node("MatMul", "x w", "h"), node("ConvTranspose", "i c", "t"), node("MatMul", "h v", "y")],
        {"x": ("n", MOST_COLUMNS + 1), "i": ("n", 2, 4, 4)},
        {"y": ("n", 2), "t": ("n", 3, 6, 6)},
        {"w": weights(MOST_COLUMNS + 1, 3), "v": weights(3, 2), "c": weights(2, 3, 3, 3)},
    )
    reasons = matrix_reasons(Graph(wide))
    assert reasons["MatMul_h"] == "each output reads 4609 numbers, above 4608"
    assert "ConvTranspose" in reasons["ConvTranspose_t"]
    assert reasons["MatMul_y"] == ""


@pytest.mark.parametrize(("value", "told"), [(np.nan, "holds NaN or infinity"), (3e30, "reaches 3e[+]30 on the")])
def test_values_without_moments_are_named(value: float, told: str) -> None:
    x = rows(8, 64)
    x[3, 5] = value
    with pytest.raises(TechniqueError, match=f"^tensor 'x' {told}"):
        gathered(perceptron(), job(x))


def test_who_asks_for_nothing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fingerprint", None)
    assert list(layer_moments(Graph(perceptron()), [], job(rows(8, 64)))) == []


def test_an_input_without_any_patch_counts_nothing() -> None:
    patches = Patches((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    assert list(patches.cut(np.zeros((0, 2, 5, 5), np.float32))) == []
    assert not Moments(1, 18).second.any()


@pytest.mark.parametrize("mean", [0.0, 0.3, 100.0, -1e4])
def test_what_hardly_varies_has_its_covariance_all_the_same(mean: float) -> None:
    x = (mean + 1e-5 * abs(mean) * rows(400, 6)).astype(np.float32)
    x[:, 0] = mean
    moments = Moments(1, 6)
    for part in np.split(x, 4):
        moments.add(part[None])
    exact = x.astype(np.float64)
    np.testing.assert_allclose(moments.covariance[0], np.cov(exact.T, bias=True), rtol=1e-4, atol=1e-16 * mean**2)
    np.testing.assert_allclose(moments.second[0], exact.T @ exact / 400, rtol=1e-7)
    np.testing.assert_allclose(moments.mean[0], exact.mean(axis=0), rtol=1e-9)
    assert np.linalg.eigvalsh(moments.covariance[0]).min() >= -1e-17 * mean**2
