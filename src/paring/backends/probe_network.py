"""A network with two inputs and two outputs whose answers NumPy can check, in every format that a backend may read.

    y = relu(mean over height and width of a @ w + b)      (batch, 3, h, w), (batch, 4) -> (batch, 4)
    z = sum over b * b                                     (batch, 4) -> (batch,)

h is 8 and w is 6. Runtimes may differ in the last bits of f32, and in nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paring.backends.base import NETWORK_FILES, NetworkFormat
from paring.backends.torch_archive import write_archive
from paring.types import Array, Arrays

HEIGHT, WIDTH = 8, 6
TOLERANCE = 1e-4


def weight() -> Array:
    """w, shape (3, 4)."""
    return np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)


def probe_inputs(rows: int) -> Arrays:
    """Inputs of that many rows; the same for the same number."""
    random = np.random.default_rng(rows)
    return {
        "a": random.standard_normal((rows, 3, HEIGHT, WIDTH), dtype=np.float32),
        "b": random.standard_normal((rows, 4), dtype=np.float32),
    }


def expected_outputs(inputs: Arrays) -> Arrays:
    """What the network must answer."""
    a, b = inputs["a"], inputs["b"]
    return {"y": np.maximum(a.mean(axis=(2, 3)) @ weight() + b, 0), "z": (b * b).sum(axis=1)}


def write_probe_network(format: NetworkFormat, folder: Path) -> Path:
    """Write the network's file into a folder."""
    path = folder / NETWORK_FILES[format]
    if format == "onnx":
        _write_onnx(path)
    else:
        _write_torch(path)
    return path


def _write_onnx(path: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    constants = {"w": weight(), "hw": np.array([2, 3], dtype=np.int64), "one": np.array([1], dtype=np.int64)}
    nodes = [
        helper.make_node("ReduceMean", ["a", "hw"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
        helper.make_node("Mul", ["b", "b"], ["square"]),
        helper.make_node("ReduceSum", ["square", "one"], ["z"], keepdims=0),
    ]
    shapes: dict[str, list[str | int | None]] = {
        "a": ["batch", 3, HEIGHT, WIDTH],
        "b": ["batch", 4],
        "y": ["batch", 4],
        "z": ["batch"],
    }
    values = {n: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "probe",
        [values["a"], values["b"]],
        [values["y"], values["z"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # The oldest pair of opset and file version that has axes as inputs: every supported runtime reads it.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def _write_torch(path: Path) -> None:
    import torch
    from torch import Tensor, nn

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.from_numpy(weight()), requires_grad=False)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"y": torch.relu(a.mean((2, 3)) @ self.w + b), "z": (b * b).sum(1)}

    sample = {name: torch.from_numpy(array) for name, array in probe_inputs(2).items()}
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        Probe().eval(), (), sample, dynamic_shapes={"a": {0: batch}, "b": {0: batch}}, strict=False
    )
    write_archive(program, path)
