"""ONNX Runtime's providers for NVIDIA devices: CUDA kernels, and TensorRT engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from paring.backends.base import Backend, NetworkFormat
from paring.backends.onnxruntime import (
    CPU,
    input_specs,
    lane_of,
    load_graph,
    missing_provider,
    session_options,
)
from paring.backends.splitting import SplitSession, check_split
from paring.types import Budget, Session

_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"


@dataclass(frozen=True)
class Cuda(Backend):
    """ONNX Runtime's CUDA provider. `tf32` lets matrix products round to 10 bits of mantissa; off, results are f32."""

    micro_batch: int = 0
    tf32: bool = False

    name: ClassVar[str] = "cuda"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "onnxruntime-gpu"

    def __post_init__(self) -> None:
        check_split(1, self.micro_batch)

    @classmethod
    def available(cls) -> str | None:
        """None where this build of ONNX Runtime has the provider; whether a device answers, the probe's run tells."""
        return missing_provider(_CUDA)

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load an ONNX file on the first device, whatever `device` says: this provider has no other."""
        providers = [(_CUDA, {"use_tf32": "1" if self.tf32 else "0"}), (CPU, {})]
        session = load_graph(network, session_options(threads, "all", spinning=True), providers)
        return SplitSession(str(self), [lane_of(session)], input_specs(session), micro_batch=self.micro_batch)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """Full precision, then TF32."""
        yield cls()
        yield cls(tf32=True)


@dataclass(frozen=True)
class TensorRT(Backend):
    """ONNX Runtime's TensorRT provider. `half` lets TensorRT choose f16 kernels."""

    micro_batch: int = 0
    half: bool = False

    name: ClassVar[str] = "tensorrt"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "onnxruntime-gpu"

    def __post_init__(self) -> None:
        check_split(1, self.micro_batch)

    @classmethod
    def available(cls) -> str | None:
        """None where this build of ONNX Runtime has the provider; whether a device answers, the probe's run tells."""
        return missing_provider(_TENSORRT)

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load an ONNX file on the first device, whatever `device` says: this provider has no other."""
        providers = [(_TENSORRT, {"trt_fp16_enable": "1" if self.half else "0"}), (_CUDA, {"use_tf32": "0"}), (CPU, {})]
        session = load_graph(network, session_options(threads, "all", spinning=True), providers)
        return SplitSession(str(self), [lane_of(session)], input_specs(session), micro_batch=self.micro_batch)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """Full precision, then half."""
        yield cls()
        yield cls(half=True)
