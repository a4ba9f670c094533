"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from paring.backends.base import Backend, NetworkFormat
from paring.backends.checks import in_one_sentence
from paring.backends.precision import EXECUTION_PRECISION_KEY, execution_precision
from paring.backends.splitting import Run, SplitSession, check_split
from paring.errors import BackendError
from paring.types import Arrays, Budget, Session, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

Optimization = Literal["all", "basic", "off"]
Providers = list[tuple[str, dict[str, str]]]

_LOG_ERRORS_ONLY = 3
_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class OnnxRuntime(Backend):
    """ONNX Runtime's CPU provider.

    `streams` pieces of a batch run side by side on threads/streams threads each, in steps of `micro_batch` rows (0:
    whole). `spinning` lets idle threads wait actively: faster, and it takes a core from whoever else needs one.
    `optimization` "basic" leaves every name of the graph in place, "off" every node too.
    """

    streams: int = 1
    micro_batch: int = 0
    spinning: bool = True
    optimization: Optimization = "all"

    name: ClassVar[str] = "onnxruntime"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "onnxruntime"

    def __post_init__(self) -> None:
        check_split(self.streams, self.micro_batch)
        if self.optimization not in ("all", "basic", "off"):
            raise BackendError(f"optimization={self.optimization!r} is unknown: choose all, basic or off.")

    @classmethod
    def available(cls) -> str | None:
        """None where ONNX Runtime can be imported."""
        return missing_provider(CPU)

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load an ONNX file. Raises BackendError where ONNX Runtime refuses it."""
        if device != "cpu":
            raise BackendError(f"onnxruntime runs on the cpu, not on {device!r}: use the backend cuda or tensorrt.")
        lane_threads = max(1, threads // self.streams)
        options = session_options(lane_threads, self.optimization, spinning=self.spinning)
        # With one thread a lane the caller does all the work itself, so that one loaded network serves every lane.
        loaded = 1 if lane_threads == 1 else self.streams
        sessions = [load_graph(network, options, [(CPU, {})]) for _ in range(loaded)]
        lanes = [lane_of(sessions[i % loaded]) for i in range(self.streams)]
        return SplitSession(str(self), lanes, input_specs(sessions[0]), micro_batch=self.micro_batch)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """The default; for batches, streams on a thread each, and pieces that stay in cache."""
        yield cls()
        if threads > 1 and budget.batch_size >= 2 * threads:
            yield cls(streams=threads)
            if budget.batch_size >= 32 * threads:
                yield cls(streams=threads, micro_batch=16)


def missing_provider(provider: str) -> str | None:
    """None where the installed build of ONNX Runtime has the provider, else the reason why not."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"ONNX Runtime can't be imported ({in_one_sentence(error)}): pip install onnxruntime."
    if provider in onnxruntime.get_available_providers():
        return None
    return f"this build of ONNX Runtime has no {provider}: install onnxruntime-gpu on a machine that has the device."


def session_options(threads: int, optimization: Optimization, *, spinning: bool) -> onnxruntime.SessionOptions:
    """Options that all providers share."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.graph_optimization_level = {
        "all": levels.ORT_ENABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "off": levels.ORT_DISABLE_ALL,
    }[optimization]
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return options


def load_graph(network: Path, options: Any, providers: Providers) -> onnxruntime.InferenceSession:
    """A loaded graph. Raises BackendError, also where the first provider was silently replaced by another."""
    import onnxruntime

    wanted = providers[0][0]
    reason = missing_provider(wanted)
    if reason is not None:
        raise BackendError(reason)
    try:
        session = onnxruntime.InferenceSession(str(network), options, providers=providers)
    except Exception as error:
        raise BackendError(f"ONNX Runtime can't load {network.name}: {in_one_sentence(error)}.") from error
    if session.get_providers()[0] != wanted:
        raise BackendError(f"ONNX Runtime fell back from {wanted} to {session.get_providers()[0]}: check its driver.")
    precision = execution_precision(session.get_modelmeta().custom_metadata_map.get(EXECUTION_PRECISION_KEY))
    if precision != "f32":
        raise BackendError(
            f"{network.name} asks to be executed in {precision}, which ONNX Runtime can't do: use openvino."
        )
    return session


def lane_of(session: onnxruntime.InferenceSession) -> Run:
    """A function that runs one piece."""
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def input_specs(session: onnxruntime.InferenceSession) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes as the graph declares them."""
    return tuple(
        TensorSpec(node.name, _dtype(node.type), tuple(size if isinstance(size, int) else None for size in node.shape))
        for node in session.get_inputs()
    )


def _dtype(declared: str) -> str:
    """ "tensor(float)" -> "float32"."""
    inner = declared.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)
