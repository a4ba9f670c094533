"""Bits for each layer: against every choice there is on small networks, at limits of bytes and of measured time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from paring.errors import TechniqueError
from paring.graph.onnx_layers import weighted_layers
from paring.ops.formats import format_of
from paring.ops.sensitivity import relative_error
from paring.techniques.bit_allocation import BitAllocation, Sensitivity
from paring.techniques.calibration import observe
from paring.techniques.layer_times import Stopwatch
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.static_quantization import StaticQuantization
from tests.quantization_nets import (
    Array,
    constant,
    job,
    make,
    node,
    residual_net,
    rows,
    run,
    weights,
)
from tests.quantization_nets import (
    relative_error as moved,
)

X = rows(32, 3, 8, 8)
WHOLE = StaticQuantization("mse", scales="mse")
WIDE = StaticQuantization(activations="uint16")


def uneven_net() -> Any:
    """Four layers of different sizes, of which the second has weights that few levels can't hold."""
    second = weights(16, 8, seed=2)
    second[:, 0] *= 30
    constants = {"w0": weights(8, 8), "w1": second, "w2": weights(32, 16, seed=3), "w3": weights(4, 32, seed=4)}
    nodes = [
        *(node("Gemm", "x w0", "a", transB=1), node("Relu", "a", "ra")),
        *(node("Gemm", "ra w1", "b", transB=1), node("Relu", "b", "rb")),
        *(node("Gemm", "rb w2", "c", transB=1), node("Relu", "c", "rc")),
        node("Gemm", "rc w3", "y", transB=1),
    ]
    return make(nodes, {"x": (None, 8)}, {"y": (None, 4)}, constants)


def deep_net() -> Any:
    """Five layers, of which one has inputs that matter much more than others."""
    shapes = ((24, 8), (16, 24), (32, 16), (12, 32), (4, 12))
    constants = {f"w{number}": weights(*shape, seed=10 + number) * 1.4 for number, shape in enumerate(shapes)}
    constants["w2"][:, :2] *= 6
    nodes, read = [], "x"
    for number in range(4):
        nodes += [node("Gemm", f"{read} w{number}", f"h{number}", transB=1), node("Relu", f"h{number}", f"r{number}")]
        read = f"r{number}"
    return make([*nodes, node("Gemm", f"{read} w4", "y", transB=1)], {"x": (None, 8)}, {"y": (None, 4)}, constants)


def bits_of(found: StaticQuantization, model: Any) -> float:
    """Of a weight, on average."""
    sizes = {layer.name: layer.parameters for layer in weighted_layers(model)}
    used = {layer: format_of(name).bits for layer, name in found.formats}
    return sum(sizes[layer] * bits for layer, bits in used.items()) / sum(sizes[layer] for layer in used)


@pytest.mark.parametrize("mean_bits", [2.5, 3.0, 4.0, 6.0])
def test_the_choice_is_the_best_of_all(mean_bits: float) -> None:
    """Every way to choose, tried: by the error of weights, which the test computes anew."""
    model, choices = uneven_net(), ("int8", "int4", "int3", "int2")
    technique = BitAllocation(WHOLE, choices, mean_bits, sensitivity="weights")
    found = technique.chosen(model, job(rows(32, 8)))
    layers = [layer for layer, _ in found.formats]
    sizes = {layer.name: layer.parameters for layer in weighted_layers(model)}

    def harm(layer: str, name: str) -> float:
        weight = constant(model, {"Gemm_a": "w0", "Gemm_b": "w1", "Gemm_c": "w2", "Gemm_y": "w3"}[layer])
        return relative_error(weight, replace(WHOLE, weights=name).weighing.grid(layer, weight).quantized(weight))

    harms = {(layer, name): harm(layer, name) for layer in layers for name in choices}
    limit = mean_bits * sum(sizes[layer] for layer in layers)
    best = min(
        sum(harms[pair] for pair in zip(layers, names, strict=True))
        for names in product(choices, repeat=len(layers))
        if sum(sizes[layer] * format_of(name).bits for layer, name in zip(layers, names, strict=True)) <= limit
    )
    assert sum(harms[pair] for pair in found.formats) <= best * 1.02 + 1e-12
    assert bits_of(found, model) <= mean_bits


@pytest.mark.parametrize("net", [uneven_net, deep_net, residual_net])
def test_what_is_measured_is_the_best_of_all_networks(net: Any) -> None:
    """Every way to choose, quantized and run whole: by how far the outputs really move."""
    model, choices = net(), ("int8", "int4", "int2")
    x = X if net is residual_net else rows(96, 8)
    expected, task = run(model, x)[0], job(x)
    layers = [layer.name for layer in weighted_layers(model)]
    errors = {}
    for names in product(choices, repeat=len(layers)):
        given = replace(WHOLE, formats=tuple(zip(layers, names, strict=True)))
        if bits_of(given, model) <= 4:
            errors[given] = moved(run(given.apply(model, task), x)[0], expected) ** 2
    for mean_bits, sensitivity in ((2.5, "auto"), (3.0, "measured"), (4.0, "auto")):
        best = min(error for given, error in errors.items() if bits_of(given, model) <= mean_bits)
        found = BitAllocation(WHOLE, choices, mean_bits, sensitivity=sensitivity).chosen(model, task)
        assert errors[found] <= 1.02 * best, (mean_bits, sensitivity)


@pytest.mark.parametrize("sensitivity", get_args(Sensitivity))
def test_mixed_bits_lose_less_than_one_width_of_the_same_size(sensitivity: Any) -> None:
    model, x = uneven_net(), rows(64, 8)
    expected = run(model, x)[0]
    graph = BitAllocation(WHOLE, mean_bits=3.0, sensitivity=sensitivity).apply(model, job(x))
    uniform = replace(WHOLE, weights="int3").apply(model, job(x))
    assert moved(run(graph, x)[0], expected) < moved(run(uniform, x)[0], expected)


def test_the_graph_holds_integers_of_the_formats_that_were_chosen() -> None:
    technique = BitAllocation(WHOLE, ("int8", "int3"), 4.0)
    found = technique.chosen(residual_net(), job(X))
    graph = technique.apply(residual_net(), job(X))
    stored = [
        constant(graph, t.name) for t in graph.graph.initializer if t.name.startswith("w") and "quantized" in t.name
    ]
    widest = sorted(int(np.abs(each.astype(int)).max()) for each in stored if each.ndim > 1)
    used = sorted(127 if name == "int8" else 4 for _, name in found.formats)
    assert len(widest) == len(used)
    assert all(largest <= most for largest, most in zip(widest, used, strict=True))
    assert {name for _, name in found.formats} == {"int8", "int3"}
    layers = technique.coverage(residual_net(), graph, job(X)).layers
    assert all(layer.changed for layer in layers)


def test_more_bits_are_never_worse() -> None:
    errors = []
    for mean_bits in (2.2, 3.0, 4.0, 6.0, 8.0):
        graph = BitAllocation(WHOLE, mean_bits=mean_bits).apply(residual_net(), job(X))
        errors.append(moved(run(graph, X)[0], run(residual_net(), X)[0]))
    assert errors[-1] < errors[2] < errors[0]


@dataclass
class ToldSession:
    """Of a network that takes as long as `told` says for the layers that it has in floating point.

    What a call takes from outside, by files and a pipe, is the same for every network.
    """

    told: Callable[[set[str]], float]

    def __call__(self, backend: Any, network: Path, **settings: Any) -> ToldSession:
        """The session of that network."""
        model = onnx.load(network)
        dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        floats = {node.name for node in model.graph.node if node.op_type == "Gemm" and node.input[1] not in dequantized}
        return ToldSession(lambda _: self.told(floats))

    def __enter__(self) -> ToldSession:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def run(self, inputs: Any) -> dict[str, Array]:
        return {}

    def time_block(self, inputs: Any, *, batch_size: int, **_: Any) -> Array:
        assert batch_size == 1
        assert all(len(np.load(file)) == 1 for file in inputs.values())
        return np.full(3, 1e6 * self.told(set()))


GAINED = {"Gemm_a": 3.0, "Gemm_b": 0.5, "Gemm_c": 2.0, "Gemm_y": 0.5}


@pytest.fixture(scope="module")
def seen() -> Any:
    """The histograms of all tensors."""
    graph = uneven_net()
    return observe(graph, ["x", *(node.output[0] for node in graph.graph.node)], job(rows(32, 8)))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, seen: Any) -> Callable[..., None]:
    """Lets networks take so many milliseconds, by their layers in floating point."""

    def tell(times: Callable[[set[str]], float]) -> None:
        # Histograms were gathered once.
        monkeypatch.setattr("paring.techniques.static_quantization.observe", lambda *_: seen)
        monkeypatch.setattr("paring.techniques.layer_times.IsolatedSession", ToldSession(times))

    return tell


def alone(floats: set[str]) -> float:
    """Four milliseconds in integers, ten in floating point, and the layers' own in between."""
    return 4 + sum(GAINED[name] for name in floats)


def test_times_are_those_of_calls_inside_the_process_of_the_network(told: Any) -> None:
    told(alone)
    watch = Stopwatch(uneven_net(), job(rows(32, 8)))
    assert watch.share(WHOLE, 0.5).middle == pytest.approx(0.4)
    for name, ms in GAINED.items():
        assert watch.longer(WHOLE, name).middle == pytest.approx((4 + ms) / 4)


def test_a_limit_of_time_leaves_in_float_what_gains_least(told: Any) -> None:
    """With times given: the layer whose integers gain most for their harm is quantized, the costly ones stay."""
    told(alone)
    technique = BitAllocation(WHOLE, ("int6", "int4"), latency_share=0.5, sensitivity="weights")
    found = technique.chosen(uneven_net(), job(rows(32, 8)))
    assert found.exclude == ("Gemm_b", "Gemm_y")
    with pytest.raises(TechniqueError, match=r"the fastest of 15 quantized networks takes 0.40 \(0.40-0.40\)"):
        replace(technique, latency_share=0.3).chosen(uneven_net(), job(rows(32, 8)))


def costly_together(floats: set[str]) -> float:
    """No layer alone is slower in floating point, as where noise hides what integers gain."""
    return 4 + 1.5 * max(0, len(floats) - 1) + (1.5 if len(floats) == len(GAINED) else 0)


def costlier_than_alone(floats: set[str]) -> float:
    """Two layers in floating point cost what three should."""
    return 4 + 6 * (1 - (1 - len(floats) / len(GAINED)) ** 2)


def slower_in_integers(floats: set[str]) -> float:
    """One layer gains all, the others lose a little."""
    return 4 + (6.9 if "Gemm_c" in floats else 0) - 0.3 * len(floats - {"Gemm_c"})


@pytest.mark.parametrize("times", [alone, costly_together, costlier_than_alone, slower_in_integers])
@pytest.mark.parametrize("limit", [0.41, 0.5, 0.7, 0.9])
def test_what_is_chosen_holds_the_limit_of_time_and_errs_least(told: Any, times: Any, limit: float) -> None:
    """Of all networks, each quantized and run; the error of weights that stay float is 0."""
    told(times)
    model, task = uneven_net(), job(rows(32, 8))
    found = BitAllocation(WHOLE, ("int8", "int2"), latency_share=limit, sensitivity="measured").chosen(model, task)
    expected, longest = run(model, rows(32, 8))[0], limit * times(set(GAINED))
    errors = {}
    for formats in product(("int8", "int2", "float"), repeat=len(GAINED)):
        named = list(zip(GAINED, formats, strict=True))
        floats = tuple(layer for layer, name in named if name == "float")
        if len(floats) < len(GAINED) and times(set(floats)) <= longest:
            pairs = tuple((layer, name) for layer, name in named if name != "float")
            given = replace(WHOLE, formats=pairs, exclude=floats)
            errors[pairs] = moved(run(given.apply(model, task), rows(32, 8))[0], expected) ** 2
    assert times(set(found.exclude)) <= longest
    assert errors[found.formats] <= 1.02 * min(errors.values())


def test_networks_are_timed_in_processes_of_their_own() -> None:
    found = Stopwatch(uneven_net(), job(rows(8, 8))).share(WHOLE, 0.5)
    assert 0 < found.low <= found.middle <= found.high


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"choices": ("int4",)}, r"choices=\('int4',\) must be two formats or more"),
        ({"choices": ("int4", "nf4")}, "choices='nf4' does not fit 8-bit integers: use"),
        ({"choices": ("int4", "int9")}, "choices='int9' is unknown: choose int8"),
        ({"mean_bits": 0.5}, "mean_bits=0.5 must lie between 1 and 32"),
        ({"latency_share": 1.5}, "latency_share=1.5 must lie between 0 and 1"),
        ({"choices": ("float", "int8", "float")}, "name 'float' twice: give each format once"),
        ({"latency_share": 0.5, "least_sqnr_db": 20.0}, "latency_share=0.5 and least_sqnr_db=20.0 are two limits"),
        ({"least_sqnr_db": -3.0}, "least_sqnr_db=-3.0 must lie between 0 and 90"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TechniqueError, match=sentence):
        BitAllocation(**settings)


def test_a_limit_below_the_cheapest_choice_names_it() -> None:
    with pytest.raises(TechniqueError, match="the least of choices has 4 bits"):
        BitAllocation(WHOLE, ("int8", "int4"), 3.0).apply(residual_net(), job(X))


@pytest.mark.parametrize("sensitivity", get_args(Sensitivity))
def test_a_layer_of_zeros_stays_so_in_formats_without_a_level_0(sensitivity: Any) -> None:
    model = uneven_net()
    for tensor in model.graph.initializer:
        if tensor.name == "w3":
            tensor.raw_data = np.zeros((4, 32), np.float32).tobytes()
    graph = BitAllocation(WHOLE, ("int8", "binary"), 2.0, sensitivity=sensitivity).apply(model, job(rows(32, 8)))
    np.testing.assert_allclose(run(graph, rows(32, 8))[0], 0, atol=1e-30)


@pytest.mark.parametrize("technique", [BitAllocation(StaticQuantization(activations="uint16")), MixedPrecision(WIDE)])
def test_harm_is_measured_with_16_bits_of_activations(technique: Any) -> None:
    expected = run(uneven_net(), rows(32, 8))[0]
    found = run(technique.apply(uneven_net(), job(rows(32, 8))), rows(32, 8))[0]
    assert moved(found, expected) < 0.2


def test_where_no_choice_has_enough_bits_the_widest_is_taken() -> None:
    found = BitAllocation(WHOLE, ("int8", "int4"), least_sqnr_db=90.0).chosen(uneven_net(), job(rows(8, 8)))
    assert {name for _, name in found.formats} == {"int8"}


def test_a_quantized_graph_is_refused() -> None:
    graph = WHOLE.apply(residual_net(), job(X))
    with pytest.raises(TechniqueError, match="quantized already"):
        BitAllocation().apply(graph, job(X))


def test_weights_that_are_not_finite_are_named() -> None:
    broken = uneven_net()
    weight: Array = constant(broken, "w1").copy()
    weight[0, 0] = np.inf
    for tensor in broken.graph.initializer:
        if tensor.name == "w1":
            tensor.raw_data = weight.tobytes()
    with pytest.raises(TechniqueError, match="'w1' holds NaN or infinity"):
        BitAllocation().apply(broken, job(rows(8, 8)))


def test_bits_by_distribution_are_fewer_where_a_lower_ratio_will_do() -> None:
    model = uneven_net()
    found = {
        decibels: BitAllocation(WHOLE, least_sqnr_db=decibels).chosen(model, job(rows(8, 8))).formats
        for decibels in (8.0, 15.0, 35.0)
    }
    means = [bits_of(replace(WHOLE, formats=formats), model) for formats in found.values()]
    assert means[0] < means[1] < means[2]
    assert means[0] >= 2
    assert means[2] <= 8
