"""Which numbers of channels a runtime runs fast on this machine: small networks of 16 widths in a row tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.process import WorkerProcess, class_reference
from paring.ops.multiples import free_step

if TYPE_CHECKING:
    import onnx

TIME_LIMIT_S = 60.0
CALLS = 100
LAYERS = 4
WIDTHS: Mapping[str, range] = {"convolutions": range(33, 49), "linear layers": range(161, 177)}
ROWS, IMAGE = 64, 16


@cache
def fast_multiple(backend: type[Backend] = OnnxRuntime) -> int:
    """Rounding numbers of channels up to multiples of it costs no time on this machine: measured once, in seconds.

    By convolutions and linear layers in fp32 on one thread. Raises BackendError where the runtime fails.
    """
    worker = WorkerProcess(backend.name)
    try:
        found = worker.ask({"command": "time_widths", "class": class_reference(backend)}, TIME_LIMIT_S)
    finally:
        worker.close()
    return free_step({int(width): taken for width, taken in times.items()} for times in found.values())


def timed_widths(kind: type[Backend], folder: Path) -> dict[str, dict[int, float]]:
    """The worker's side: nanoseconds of the fastest of some calls for each kind of layer and width, taken in turn."""
    found: dict[str, dict[int, float]] = {}
    for layers, widths in WIDTHS.items():
        shape = (ROWS, widths[-1]) if layers == "linear layers" else (1, widths[-1], IMAGE, IMAGE)
        inputs = {"x": np.zeros(shape, np.float32)}
        network = folder / NETWORK_FILES["onnx"]
        sessions = {}
        for width in widths:
            network.write_bytes(_stack(shape, width).SerializeToString())
            sessions[width] = kind().load(network, threads=1)
        taken: dict[int, list[int]] = {width: [] for width in widths}
        for _ in range(CALLS):
            for width, session in sessions.items():
                begin_ns = time.perf_counter_ns()
                session.run(inputs)
                taken[width].append(time.perf_counter_ns() - begin_ns)
        for session in sessions.values():
            session.close()
        found[layers] = {width: float(min(each)) for width, each in taken.items()}
    return found


def _stack(shape: tuple[int, ...], width: int) -> onnx.ModelProto:
    """Some layers of that width, one behind the other, on inputs of a shape: (rows, columns) or (1, channels, h, w)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, result = [], [], "x"
    random = np.random.default_rng(0)
    for number in range(LAYERS):
        inputs, weight = shape[1] if number == 0 else width, f"w{number}"
        if len(shape) == 4:
            values = random.standard_normal((width, inputs, 3, 3), dtype=np.float32)
            nodes.append(helper.make_node("Conv", [result, weight], [f"y{number}"], pads=[1, 1, 1, 1]))
        else:
            values = random.standard_normal((inputs, width), dtype=np.float32)
            nodes.append(helper.make_node("MatMul", [result, weight], [f"y{number}"]))
        weights.append(numpy_helper.from_array(values, weight))
        result = f"z{number}"
        nodes.append(helper.make_node("Relu", [f"y{number}"], [result]))
    described: dict[str, Any] = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, each)
        for name, each in {"x": shape, result: (shape[0], width, *shape[2:])}.items()
    }
    graph = helper.make_graph(nodes, "widths", [described["x"]], [described[result]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
