"""ONNX Runtime through any of its execution providers: what its backends have in common."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paring.backends.base import Backend, Execution, NetworkFormat
from paring.backends.checks import in_one_sentence
from paring.backends.openvino import OpenVINO
from paring.backends.precision import EXECUTION_PRECISION_KEY, alternative, execution_precision
from paring.backends.splitting import Run, SplitSession
from paring.errors import BackendError
from paring.types import Arrays, Session, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

Optimization = Literal["all", "basic", "off"]
Providers = list[tuple[str, dict[str, str]]]
CPU = "CPUExecutionProvider"

_LOG_ERRORS_ONLY = 3
_EXECUTED: Mapping[str, Execution] = MappingProxyType(
    {
        **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"), "float"),
        **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"), "integers"),
        **dict.fromkeys(("ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"), "integers"),
        "MatMulNBits": "packed",
    }
)
"""What a layer of that operator is computed in; operators that turn floats into integers are others."""

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}


@dataclass(frozen=True)
class Opening:
    """How ONNX Runtime opens a graph: `lanes` pieces of a batch side by side on `threads` threads each.

    `without` names graph optimizers of ONNX Runtime's that are left out.
    """

    threads: int
    lanes: int = 1
    micro_batch: int = 0
    spinning: bool = True
    optimization: Optimization = "all"
    without: tuple[str, ...] = ()


class ProviderBackend(Backend):
    """A backend that is one of ONNX Runtime's execution providers. A subclass is a frozen dataclass of its options.

    `devices` are what callers may call the provider's device; their arrays lie in the CPU's memory all the same.
    """

    format: ClassVar[NetworkFormat] = "onnx"
    provider: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @classmethod
    def available(cls) -> str | None:
        """None where this build of ONNX Runtime has the provider; whether a device answers, the probe's run tells."""
        return missing_provider(cls.provider)

    @abstractmethod
    def providers(self) -> Providers:
        """The provider with its settings, then those that take the operators that it lacks."""

    @abstractmethod
    def opening(self, threads: int) -> Opening:
        """What the options mean with so many threads."""

    def executed(self, network: Path) -> tuple[Execution, ...]:
        """By the operators of the graph as ONNX Runtime has optimized it."""
        import onnx

        how = self.opening(1)
        options = _session_options(how)
        with tempfile.TemporaryDirectory(prefix="paring-") as folder:
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            _loaded(network, options, how, self.providers())
            graph = onnx.load(options.optimized_model_filepath).graph
        return tuple(_EXECUTED[node.op_type] for node in graph.node if node.op_type in _EXECUTED)

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load an ONNX file on the provider's first device. Raises BackendError where ONNX Runtime refuses it."""
        if device not in self.devices:
            raise BackendError(
                f"{self.name} runs on {self.devices[-1]}, not on {device!r}: leave device at its default, "
                "or choose a backend of that device."
            )
        how = self.opening(threads)
        # With one thread a lane the caller does all the work itself, so that one loaded network serves every lane.
        loaded = 1 if how.threads == 1 else how.lanes
        sessions = [_loaded(network, _session_options(how), how, self.providers()) for _ in range(loaded)]
        lanes = [_lane(sessions[i % loaded]) for i in range(how.lanes)]
        return SplitSession(str(self), lanes, _input_specs(sessions[0]), micro_batch=how.micro_batch)


def missing_provider(provider: str) -> str | None:
    """None where the installed build of ONNX Runtime has the provider, else the reason why not."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"ONNX Runtime can't be imported ({in_one_sentence(error)}): pip install onnxruntime."
    if provider in onnxruntime.get_available_providers():
        return None
    return f"this build of ONNX Runtime has no {provider}: install onnxruntime-gpu on a machine that has the device."


def _session_options(how: Opening) -> onnxruntime.SessionOptions:
    import onnxruntime

    onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = how.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.graph_optimization_level = {
        "all": levels.ORT_ENABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "off": levels.ORT_DISABLE_ALL,
    }[how.optimization]
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if how.spinning else "0")
    return options


def _loaded(network: Path, options: Any, how: Opening, providers: Providers) -> onnxruntime.InferenceSession:
    """A loaded graph. Raises BackendError, also where the first provider was silently replaced by another."""
    import onnxruntime

    wanted = providers[0][0]
    reason = missing_provider(wanted)
    if reason is not None:
        raise BackendError(reason)
    try:
        session = onnxruntime.InferenceSession(
            str(network), options, providers=providers, disabled_optimizers=list(how.without)
        )
    except Exception as error:
        raise BackendError(f"ONNX Runtime can't load {network.name}: {in_one_sentence(error)}.") from error
    if session.get_providers()[0] != wanted:
        raise BackendError(f"ONNX Runtime fell back from {wanted} to {session.get_providers()[0]}: check its driver.")
    precision = execution_precision(session.get_modelmeta().custom_metadata_map.get(EXECUTION_PRECISION_KEY))
    if precision != "f32":
        here = OpenVINO.precisions() if OpenVINO.available() is None else ()
        told = f"{network.name} asks to be executed in {precision}, which ONNX Runtime can't do"
        raise BackendError(f"{told}: {alternative(precision, here)}.")
    return session


def _lane(session: onnxruntime.InferenceSession) -> Run:
    """A function that runs one piece."""
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def _input_specs(session: onnxruntime.InferenceSession) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes as the graph declares them."""
    return tuple(
        TensorSpec(node.name, _dtype(node.type), tuple(size if isinstance(size, int) else None for size in node.shape))
        for node in session.get_inputs()
    )


def _dtype(declared: str) -> str:
    """ "tensor(float)" -> "float32"."""
    inner = declared.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)
