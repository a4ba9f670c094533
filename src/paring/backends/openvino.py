"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from paring.backends.base import Backend, Execution, NetworkFormat
from paring.backends.checks import in_one_sentence
from paring.backends.cores import fewer_threads, threads_taken
from paring.backends.openvino_reductions import part_reductions_
from paring.backends.precision import (
    EXECUTION_PRECISION_KEY,
    PRECISIONS,
    ExecutionPrecision,
    alternative,
    execution_precision,
)
from paring.backends.splitting import Run, SplitSession, check_split
from paring.errors import BackendError, quoted
from paring.types import Arrays, Budget, Session, TensorSpec, is_whole

if TYPE_CHECKING:
    import openvino

_CAPABILITY: dict[ExecutionPrecision, str] = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
_LAYERS = ("Convolution", "FullyConnected", "MatMul")
_INTEGERS, _HALVES = ("i8", "u8"), ("bf16", "f16")
_FRAMEWORK = "framework"
"""Where OpenVINO keeps an ONNX graph's metadata."""


@dataclass(frozen=True)
class OpenVINO(Backend):
    """OpenVINO's CPU plugin, in f32 unless the graph asks for less.

    `streams` pieces of a batch run side by side on threads/streams threads each, in steps of `micro_batch` rows (0:
    whole). Pieces of exactly `static_batch` rows (0: none) run a second plan that is compiled for that size: it saves
    the shape inference of every call, and costs memory. `threads` (0: all) and streams are never more than the threads
    that the network is given.
    """

    streams: int = 1
    micro_batch: int = 0
    static_batch: int = 0
    threads: int = 0

    name: ClassVar[str] = "openvino"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "openvino"

    def __post_init__(self) -> None:
        check_split(streams=self.streams, micro_batch=self.micro_batch, threads=self.threads)
        if not (is_whole(self.static_batch) and self.static_batch >= 0):
            raise BackendError(f"static_batch={quoted(self.static_batch)} must be a number of rows, or 0 for none.")

    @classmethod
    def available(cls) -> str | None:
        """None where OpenVINO can be imported and has its CPU plugin."""
        try:
            import openvino
        except ImportError as error:
            return f"OpenVINO can't be imported ({in_one_sentence(error)}): pip install openvino."
        return None if "CPU" in openvino.Core().available_devices else "OpenVINO finds no CPU plugin: install it again."

    @classmethod
    def precisions(cls) -> tuple[ExecutionPrecision, ...]:
        """Those that the CPU has kernels for."""
        import openvino

        return _precisions(openvino.Core())

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load an ONNX file. Raises BackendError where OpenVINO refuses it."""
        if device != "cpu":
            raise BackendError(f"openvino runs on the cpu here, not on {device!r}: leave device at its default.")
        import openvino

        core, threads = openvino.Core(), threads_taken(self.threads, threads)
        streams = min(self.streams, threads)
        try:
            model = core.read_model(network)
            names = [_graph_name(port) for port in model.outputs]
            specs = tuple(_spec(port) for port in model.inputs)
            plans = self._plans(core, model, threads, streams)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"OpenVINO can't load {network.name}: {in_one_sentence(error)}.") from error
        lanes = [_lane(plans, self.static_batch, names) for _ in range(streams)]
        return SplitSession(str(self), lanes, specs, micro_batch=self.micro_batch)

    def _plans(self, core: Any, model: Any, threads: int, streams: int) -> tuple[Any, ...]:
        """The model compiled for any batch, then for the static one; changes it."""
        part_reductions_(model)
        config = {
            "INFERENCE_PRECISION_HINT": _precision(core, model),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
        }
        plans = [core.compile_model(model, "CPU", config)]
        if self.static_batch:
            shapes = {port: [self.static_batch, *list(port.partial_shape)[1:]] for port in model.inputs}
            model.reshape(shapes)
            plans.append(core.compile_model(model, "CPU", config))
        return tuple(plans)

    def executed(self, network: Path) -> tuple[Execution, ...]:
        """By the types that its layers read, as the compiled model tells."""
        import openvino

        core = openvino.Core()
        compiled = self._plans(core, core.read_model(network), 1, 1)[0]
        layers = [node for node in compiled.get_runtime_model().get_ordered_ops() if _kind(node) in _LAYERS]
        return tuple(_execution(*(port.get_element_type().get_type_name() for port in n.inputs()[:2])) for n in layers)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """The default, a plan for the budget's batch, streams, and fewer threads."""
        yield cls()
        yield cls(static_batch=budget.batch_size)
        if threads > 1 and budget.batch_size >= 2 * threads:
            yield cls(streams=threads)
            if budget.batch_size % threads == 0:
                yield cls(streams=threads, static_batch=budget.batch_size // threads)
        for fewer in fewer_threads(threads, budget.batch_size):
            yield cls(static_batch=budget.batch_size, threads=fewer)


def _precisions(core: Any) -> tuple[ExecutionPrecision, ...]:
    found = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision in PRECISIONS if _CAPABILITY[precision] in found)


def _precision(core: Any, model: Any) -> str:
    """What the graph asks for. Raises BackendError where this CPU lacks it: OpenVINO would silently run f32."""
    path = [_FRAMEWORK, EXECUTION_PRECISION_KEY]
    asked = execution_precision(model.get_rt_info(path).astype(str) if model.has_rt_info(path) else None)
    if asked not in (here := _precisions(core)):
        told = f"the network asks to be executed in {asked}, which this CPU does not have"
        raise BackendError(f"{told}: {alternative(asked, here)}.")
    return asked


def _kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].astype(str))


def _execution(inputs: str, weights: str) -> Execution:
    """What a layer is computed in that reads such types."""
    if inputs in _INTEGERS and weights in _INTEGERS:
        return "integers"
    if inputs in _HALVES:
        return "16 bits"
    if inputs.startswith("f8"):
        return "8-bit floats"
    return "float" if weights == inputs else "packed"


def _lane(plans: tuple[Any, ...], static_batch: int, names: list[str]) -> Run:
    """A function that runs one piece on requests of its own."""
    requests = [plan.create_infer_request() for plan in plans]

    def run(inputs: Arrays) -> Arrays:
        arrays = list(inputs.values())
        request = requests[-1] if len(arrays[0]) == static_batch else requests[0]
        request.start_async(arrays, share_inputs=True)
        request.wait()
        return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(names)}

    return run


def _graph_name(port: openvino.Output) -> str:
    """The name in the ONNX graph: a port whose identity nodes were folded away answers to several names."""
    name = str(port.node.friendly_name).removesuffix("/sink_port_0")
    return name if name in port.names else str(port.any_name)


def _spec(port: openvino.Output) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    return TensorSpec(str(port.node.friendly_name), np.dtype(port.element_type.to_dtype()).name, shape)
