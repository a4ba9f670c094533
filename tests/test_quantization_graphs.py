"""The helpers that edit graphs: names, order, constants, subgraphs, and what layers cost."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import weighted_layers
from paring.graph.placement import float_reasons, planned
from paring.techniques.half_precision import HalfPrecision
from paring.techniques.static_quantization import StaticQuantization
from tests.quantization_nets import (
    attention_block,
    job,
    make,
    metadata,
    node,
    perceptron,
    residual_net,
    rows,
    run,
    weights,
)


@given(st.permutations(range(11)))
@settings(max_examples=30, deadline=None)
def test_finished_puts_nodes_in_an_order_that_runs(order: list[int]) -> None:
    graph = Graph(residual_net())
    nodes = graph.nodes
    copies = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(copies)
    model = graph.finished()
    onnx.checker.check_model(model, full_check=True)
    seen = {"x", *graph.initializers}
    for item in model.graph.node:
        assert set(item.input) <= seen
        seen |= set(item.output)


def test_the_model_given_is_untouched_and_unread_constants_go() -> None:
    model = perceptron()
    before = model.SerializeToString()
    graph = Graph(model)
    graph.add_constant(np.zeros(3, np.float32), "unread")
    graph.set_metadata("key", "one")
    graph.set_metadata("key", "two")
    finished = graph.finished()
    assert model.SerializeToString() == before
    assert metadata(finished) == {"key": "two"}
    assert {t.name for t in finished.graph.initializer} == {"w0", "b0", "w1", "b1"}


def test_new_names_never_clash() -> None:
    graph = Graph(perceptron())
    assert graph.unique("w0") == "w0_1"
    assert graph.unique("w0") == "w0_2"
    assert graph.unique("fresh") == "fresh"
    assert graph.add_node("Relu", ["x"], "fresh") == "fresh_1"


def test_scalars_stay_scalars() -> None:
    graph = Graph(perceptron())
    name = graph.add_constant(np.array(2.0, np.float32), "scalar")
    assert list(graph.initializers[name].dims) == []
    value = graph.constant(name)
    assert value is not None
    assert value.shape == ()


def test_costs_are_those_of_one_row() -> None:
    layers = {layer.name: layer for layer in weighted_layers(attention_block())}
    assert (layers["Gather_e"].parameters, layers["Gather_e"].macs) == (1600, 0)
    assert (layers["MatMul_q"].parameters, layers["MatMul_q"].macs) == (1024, 6 * 1024)
    transposed = make(
        [node("ConvTranspose", "x w", "y", strides=[2, 2])],
        {"x": ("n", 3, 5, 5)},
        {"y": ("n", 4, 10, 10)},
        {"w": weights(3, 4, 2, 2)},
    )
    assert weighted_layers(transposed)[0].macs == 48 * 25


def network_with_branches() -> onnx.ModelProto:
    """A Conv whose output, and a constant, are read only inside both branches of an If."""

    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["c", "large"], ["out"])], op, [], [out])

    return make(
        [
            node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
            node("ReduceMax", "x", "top", keepdims=0),
            node("Greater", "top limit", "cond"),
            node("If", "cond", "i", then_branch=branch("Add"), else_branch=branch("Sub")),
            node("Conv", "i w2", "y"),
        ],
        {"x": ("n", 3, 8, 8)},
        {"y": ("n", 2, 6, 6)},
        {
            "w": weights(4, 3, 3, 3),
            "large": weights(1, 4, 8, 8) * 3,
            "limit": np.array(0.0, np.float32),
            "w2": weights(2, 4, 3, 3),
        },
    )


def test_tensors_that_subgraphs_read_keep_their_names() -> None:
    model, x = network_with_branches(), rows(4, 3, 8, 8)
    expected = run(model, x)[0]
    for technique, tolerance in ((HalfPrecision("fp16"), 0.02), (StaticQuantization(), 0.15)):
        found = run(technique.apply(model, job(x)), x)[0]
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert not np.array_equal(found, expected)


def test_shapes_that_the_exporter_wrote_are_kept() -> None:
    model = residual_net()
    model.graph.value_info.append(helper.make_tensor_value_info("r2", TensorProto.FLOAT, ("batch", 16, 4, 4)))
    graph = StaticQuantization().apply(model, job(rows(8, 3, 8, 8)))
    assert [value.name for value in graph.graph.value_info] == ["r2"]


def test_the_exporters_traces_are_left_out() -> None:
    model = perceptron()
    for item in model.graph.node:
        item.doc_string = "File net.py, line 12"
        item.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File net.py, line 12")
    onnx.helper.set_model_props(model, {"owner": "me"})
    finished = Graph(model).finished()
    assert b"net.py" not in finished.SerializeToString()
    assert metadata(finished) == {"owner": "me"}


def test_placement_of_the_residual_network() -> None:
    every = planned(Graph(residual_net()), "every-edge")
    assert every.sources == ("x", "r0", "r1", "c2", "r2", "m")
    assert every.moved == {"s", "p"}
    group = next(group for group in every.groups if "r0" in group.tensors)
    assert set(group.tensors) == {"r0", "s", "p"}
    assert planned(Graph(residual_net()), "inputs-only").sources == ("x", "r0", "r1", "r2", "m")


def test_padding_with_another_value_is_no_mere_move() -> None:
    model = make(
        [node("Pad", "x pads value", "p"), node("Conv", "p w", "y")],
        {"x": ("n", 3, 8, 8)},
        {"y": ("n", 2, 8, 8)},
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "value": np.array(5.0, np.float32), "w": weights(2, 3, 3, 3)},
    )
    assert planned(Graph(model), "every-edge").sources == ("p", "y")
    x = rows(16, 3, 8, 8)
    found = run(StaticQuantization(placement="inputs-only").apply(model, job(x)), x)[0]
    np.testing.assert_allclose(found, run(model, x)[0], atol=0.2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n: n.attribute.append(helper.make_attribute("transA", 1)), "its input is transposed"),
        (lambda n: n.input.__setitem__(2, "x"), "bias is no constant"),
        (lambda n: n.input.__setitem__(0, "w0"), "constants alone"),
    ],
)
def test_layers_that_do_not_fit_say_why(change: object, reason: str) -> None:
    graph = Graph(perceptron())
    change(graph.nodes[0])  # type: ignore[operator]
    assert reason in float_reasons(graph)["Gemm_h"]
