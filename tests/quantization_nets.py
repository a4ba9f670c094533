"""Small graphs, made node by node, that the tests of graph techniques share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from paring.data.job import Job
from paring.ops.quantization import Parameters
from paring.types import Task

Array = npt.NDArray[Any]


def make(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    outputs: dict[str, tuple[Any, ...]],
    constants: dict[str, Array],
    *,
    opset: int = 17,
    input_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, input_type, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node from blank-separated inputs; its name is `op_output`."""
    return helper.make_node(op, inputs.split(" "), [output], name=f"{op}_{output}", **attributes)


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def weights(*shape: int, seed: int = 0) -> Array:
    fan_in = max(int(np.prod(shape[1:])), 1)
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def run(model: onnx.ModelProto, *inputs: Array, optimized: bool = True) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))


def job(*inputs: Array, targets: Any = None) -> Job:
    """A job that calibrates on one batch."""
    tensors = tuple(torch.from_numpy(value) for value in inputs)
    batch = (tensors[0] if len(tensors) == 1 else tensors, targets)
    return Job.of(Task(torch.nn.Identity(), [batch]), threads=1)


def rows(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def constant(model: onnx.ModelProto, name: str) -> Array:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def relative_error(value: Array, reference: Array) -> float:
    return float(np.sqrt(np.mean((value - reference) ** 2) / np.var(reference)))


def residual_net(*, seed: int = 0) -> onnx.ModelProto:
    """Conv, a residual block with a shortcut through Slice and Pad, mean, Gemm: a small ResNet-20."""
    return make(
        [
            node("Conv", "x w0 b0", "c0", pads=[1, 1, 1, 1]),
            node("Relu", "c0", "r0"),
            node("Conv", "r0 w1 b1", "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]),
            node("Slice", "r0 start end axes step", "s"),
            node("Pad", "s pads", "p"),
            node("Add", "c2 p", "a"),
            node("Relu", "a", "r2"),
            node("ReduceMean", "r2", "m", axes=[2, 3], keepdims=0),
            node("Gemm", "m w3 b3", "y", transB=1),
        ],
        {"x": ("batch", 3, 8, 8)},
        {"y": ("batch", 5)},
        {
            "w0": weights(8, 3, 3, 3, seed=seed),
            "b0": weights(8, seed=seed + 1),
            "w1": weights(16, 8, 3, 3, seed=seed + 2),
            "b1": weights(16, seed=seed + 3),
            "w2": weights(16, 16, 3, 3, seed=seed + 4),
            "w3": weights(5, 16, seed=seed + 5),
            "b3": weights(5, seed=seed + 6),
            "start": np.array([0, 0]),
            "end": np.array([8, 8]),
            "axes": np.array([2, 3]),
            "step": np.array([2, 2]),
            "pads": np.array([0, 4, 0, 0, 0, 4, 0, 0]),
        },
    )


def perceptron(*, alpha: float = 1.0, beta: float = 1.0) -> onnx.ModelProto:
    """Gemm (weights as inputs x outputs), Relu, Gemm (outputs x inputs), both with names of their own."""
    return make(
        [
            node("Gemm", "x w0 b0", "h", alpha=alpha, beta=beta),
            node("Relu", "h", "r"),
            node("Gemm", "r w1 b1", "y", transB=1),
        ],
        {"x": ("batch", 64)},
        {"y": ("batch", 10)},
        {
            "w0": weights(96, 64).T.copy(),
            "b0": weights(96, seed=1),
            "w1": weights(10, 96, seed=2),
            "b1": weights(10, seed=3),
        },
    )


def attention_block() -> onnx.ModelProto:
    """Token ids -> embedding -> layer norm -> two MatMuls of 3-D activations -> residual, pre-norm."""
    return make(
        [
            node("Gather", "table ids", "e"),
            node("LayerNormalization", "e g0 s0", "n", axis=-1),
            node("MatMul", "n wq", "q"),
            node("MatMul", "n wk", "k"),
            node("Mul", "q k", "qk"),
            node("Add", "qk bias", "f"),
            node("Add", "f e", "res"),
            node("LayerNormalization", "res g1", "n1", axis=-1),
            node("MatMul", "n1 wo", "o"),
            node("Add", "o n1", "y"),
        ],
        {"ids": ("batch", 6)},
        {"y": ("batch", 6, 32)},
        {
            "table": weights(50, 32) * 4,
            "g0": np.linspace(0.1, 9, 32).astype(np.float32),
            "s0": weights(32, seed=1),
            "g1": np.ones(32, np.float32),
            "wq": weights(32, 32, seed=2),
            "wk": weights(32, 32, seed=3),
            "wo": weights(32, 32, seed=4),
            "bias": weights(32, seed=5),
        },
        input_type=TensorProto.INT64,
    )


def token_ids(batch: int = 16) -> Array:
    return np.random.default_rng(0).integers(0, 50, (batch, 6))


def symmetric(weight: Array, axis: int | None = None) -> Parameters:
    """int8 with zero point 0 that reaches the largest magnitude, of the whole weight or of each channel of `axis`."""
    others = tuple(place for place in range(weight.ndim) if axis is None or place != axis % weight.ndim)
    scale = np.asarray(np.abs(weight).max(axis=others) / 127, np.float32)
    return Parameters(scale, np.zeros(scale.shape, np.int8), axis)
