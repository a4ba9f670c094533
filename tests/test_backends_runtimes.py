"""What is particular to one runtime: names, precision, static plans, devices, archives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from paring.backends.accelerators import Cuda, TensorRT
from paring.backends.isolated import IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.backends.precision import EXECUTION_PRECISION_KEY
from paring.backends.providers import missing_provider
from paring.backends.torch import Torch
from paring.backends.torch_archive import write_archive
from paring.errors import BackendError, InputError

FLOAT = TensorProto.FLOAT


def saved(path, nodes, outputs, constants=(), *, precision=None, batch="n"):
    values = {name: helper.make_tensor_value_info(name, FLOAT, [batch, 64]) for name in ("x", *outputs)}
    graph = helper.make_graph(nodes, "g", [values["x"]], [values[name] for name in outputs], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    if precision is not None:
        helper.set_model_props(model, {EXECUTION_PRECISION_KEY: precision})
    onnx.save(model, path)
    return path


RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((64, 64)).astype(np.float32)
X = RANDOM.standard_normal((6, 64)).astype(np.float32)


def product(path, precision=None, batch="n"):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return saved(path, [node], ["y"], [numpy_helper.from_array(W, "w")], precision=precision, batch=batch)


def has_bf16():
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_openvino_runs_f32_where_the_graph_asks_for_nothing(tmp_path):
    session = OpenVINO().load(product(tmp_path / "n.onnx"), threads=1)
    np.testing.assert_allclose(session.run({"x": X})["y"], X @ W, atol=1e-4)


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16")
def test_openvino_runs_bf16_where_the_graph_asks_for_it(tmp_path):
    session = OpenVINO().load(product(tmp_path / "n.onnx", "bf16"), threads=1)
    error = np.abs(session.run({"x": X})["y"] - X @ W).max()
    assert 1e-3 < error < 0.5


def test_openvino_refuses_a_precision_that_the_cpu_lacks(tmp_path, monkeypatch):
    import openvino

    class Old(openvino.Core):
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Old)
    network = product(tmp_path / "n.onnx", "bf16")
    with pytest.raises(BackendError, match=r"in bf16, which this CPU does not have: choose StaticQuantization for"):
        OpenVINO().load(network, threads=1)
    with pytest.raises(BackendError, match=r"ONNX Runtime can't do: choose StaticQuantization for integers of 8 bits"):
        OnnxRuntime().load(network, threads=1)


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVINO()], ids=str)
def test_the_precision_that_this_machine_has_is_the_alternative(backend, tmp_path, monkeypatch):
    import openvino

    class Newer(openvino.Core):
        def get_property(self, device, name):
            return ["FP32", "INT8", "BF16"]

    monkeypatch.setattr(openvino, "Core", Newer)
    told = r"in f16, which .*: choose HalfPrecision\(dtype='bf16'\), which openvino executes here\.$"
    with pytest.raises(BackendError, match=told):
        backend.load(product(tmp_path / "n.onnx", "f16"), threads=1)


def test_onnxruntime_refuses_to_run_bf16_as_f32(tmp_path):
    network = product(tmp_path / "n.onnx", "bf16")
    with pytest.raises(BackendError, match=r"n\.onnx asks to be executed in bf16, which ONNX Runtime can't do"):
        OnnxRuntime().load(network, threads=1)


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVINO()], ids=str)
def test_an_unknown_precision_is_quoted(backend, tmp_path):
    network = product(tmp_path / "n.onnx", "int3")
    with pytest.raises(BackendError, match="'int3' is unknown: it must be one of f32, bf16, f16"):
        backend.load(network, threads=1)


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVINO(), OpenVINO(static_batch=6)], ids=str)
def test_outputs_keep_their_names_where_identities_are_folded(backend, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["z"]),
        helper.make_node("Identity", ["a"], ["y"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Neg", ["a"], ["b"]),
    ]
    session = backend.load(saved(tmp_path / "n.onnx", nodes, ["z", "b", "y", "same"]), threads=1)
    found = session.run({"x": X})
    relu = np.maximum(X, 0)
    assert list(found) == ["z", "b", "y", "same"]
    for name, value in {"z": relu, "y": relu, "b": -relu, "same": X}.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("rows", [1, 3, 4, 6])
def test_a_static_plan_serves_its_size_and_the_dynamic_one_the_others(rows, tmp_path):
    session = OpenVINO(static_batch=3, streams=2, micro_batch=3).load(product(tmp_path / "n.onnx"), threads=2)
    np.testing.assert_allclose(session.run({"x": X[:rows]})["y"], X[:rows] @ W, atol=1e-4)


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVINO()], ids=str)
def test_a_network_of_a_fixed_batch_says_which(backend, tmp_path):
    session = backend.load(product(tmp_path / "n.onnx", batch=6), threads=1)
    assert session.run({"x": X})["y"].shape == (6, 64)
    with pytest.raises(InputError, match=r"'x' has shape \(2, 64\), and the network takes \(6, 64\)"):
        session.run({"x": X[:2]})


def test_an_addition_and_the_layer_norm_behind_it_are_fused_where_that_is_asked_for_alone(tmp_path, monkeypatch):
    opened: list[Path] = []
    real = onnxruntime.InferenceSession

    def seen(network, options, **more):
        opened.append(tmp_path / f"optimized-{len(opened)}.onnx")
        options.optimized_model_filepath = str(opened[-1])
        return real(network, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", seen)
    nodes = [helper.make_node("Add", ["x", "y"], ["sum"]), helper.make_node("LayerNormalization", ["sum", "w"], ["z"])]
    x, y, z = (helper.make_tensor_value_info(name, FLOAT, [1, 6, 64]) for name in "xyz")
    weight = numpy_helper.from_array(np.linspace(0.5, 2, 64, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", [x, y], [z], [weight])
    path = tmp_path / "n.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    rows = {"x": X[None], "y": X[None, ::-1].copy()}
    apart, fused = (OnnxRuntime(skip_layer_norm=each).load(path, threads=1).run(rows)["z"] for each in (False, True))
    np.testing.assert_allclose(apart, fused, atol=1e-5)
    operators = [{node.op_type for node in onnx.load(file).graph.node} for file in opened]
    assert ["SkipLayerNormalization" in each for each in operators] == [False, True]


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVINO()], ids=str)
def test_an_unknown_device_is_refused(backend, tmp_path):
    with pytest.raises(BackendError, match="not on 'npu'"):
        backend.load(product(tmp_path / "n.onnx"), threads=1, device="npu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnnxRuntime(streams=0), "streams=0"),
        (lambda: OnnxRuntime(threads="2"), "threads='2' must be a number of threads, or 0"),  # type: ignore[arg-type]
        (lambda: OpenVINO(static_batch=True), "static_batch=True must be a number of rows"),
        (lambda: OnnxRuntime(optimization="some"), "optimization='some' is unknown"),
        (lambda: OpenVINO(static_batch=-1), "static_batch=-1"),
        (lambda: Torch(micro_batch=-1), "micro_batch=-1"),
        (lambda: Cuda(micro_batch=-1), "micro_batch=-1"),
        (lambda: TensorRT(micro_batch=-1), "micro_batch=-1"),
    ],
)
def test_impossible_options_are_quoted(make, message):
    with pytest.raises(BackendError, match=message):
        make()


@pytest.mark.parametrize(
    ("backend", "provider"),
    [(Cuda(), "CUDAExecutionProvider"), (TensorRT(half=True), "TensorrtExecutionProvider")],
)
def test_a_missing_provider_is_never_replaced_by_the_cpu(backend, provider, tmp_path):
    if missing_provider(provider) is None:
        pytest.skip(f"this build of ONNX Runtime has {provider}")
    assert provider in type(backend).available()
    with pytest.raises(BackendError, match=provider):
        backend.load(product(tmp_path / "n.onnx"), threads=1)


class Two(nn.Module):
    def forward(self, first, second):
        return first + second, first - second


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)


def archive(path, model, *inputs):
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    write_archive(torch.export.export(model.eval(), inputs, dynamic_shapes=shapes, strict=False), path)
    return path


@pytest.fixture(scope="module")
def convolution(tmp_path_factory):
    model = One()
    x = torch.randn(5, 3, 8, 8)
    path = archive(tmp_path_factory.mktemp("torch") / "network.pt2", model, x[:2])
    return path, x.numpy(), model(x).detach().numpy()


def test_a_torch_network_of_tuples_numbers_its_names(tmp_path):
    path = archive(tmp_path / "network.pt2", Two(), torch.ones(2, 3), torch.ones(2, 3))
    session = Torch().load(path, threads=1)
    found = session.run({"input_0": np.full((4, 3), 5, np.float32), "input_1": np.full((4, 3), 2, np.float32)})
    assert list(found) == ["output_0", "output_1"]
    assert (found["output_0"] == 7).all()
    assert (found["output_1"] == 3).all()


@pytest.mark.parametrize("backend", [Torch(), Torch(channels_last=True)], ids=str)
def test_a_torch_network_of_one_tensor_takes_input_and_gives_output(backend, convolution):
    path, x, expected = convolution
    for rows in (1, 5):
        found = backend.load(path, threads=1).run({"input": x[:rows]})
        assert list(found) == ["output"]
        np.testing.assert_allclose(found["output"], expected[:rows], atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_torch_network_answers_the_same_for_any_batch(convolution):
    path, x, expected = convolution
    # torch.compile warns of torch's own code, which is an error in this process and none in a worker.
    with IsolatedSession(Torch(compiled=True), path, threads=1) as session:
        for rows in (2, 5, 1):
            np.testing.assert_allclose(session.run({"input": x[:rows]})["output"], expected[:rows], atol=1e-5)


def test_without_a_compiler_a_compiled_network_is_refused(convolution, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendError, match=r"needs a C\+\+ compiler"):
        Torch(compiled=True).load(convolution[0], threads=1)
