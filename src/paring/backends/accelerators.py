"""ONNX Runtime's providers for NVIDIA devices: CUDA kernels, and TensorRT engines.

Both follow ONNX Runtime's documentation and have not been run on such a device yet: what the probe finds is all that
speaks for them. It runs a small network on the device, and compares the answers with NumPy's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from paring.backends.providers import CPU, Opening, ProviderBackend, Providers
from paring.backends.splitting import check_split
from paring.types import Budget

_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"


@dataclass(frozen=True)
class Accelerator(ProviderBackend):
    """A provider with a device of its own, which runs batches in steps of `micro_batch` rows (0: whole)."""

    micro_batch: int = 0

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    package: ClassVar[str | None] = "onnxruntime-gpu"

    def __post_init__(self) -> None:
        check_split(micro_batch=self.micro_batch)

    def opening(self, threads: int) -> Opening:
        """One lane: a device is not shared among streams."""
        return Opening(threads, micro_batch=self.micro_batch)


@dataclass(frozen=True)
class Cuda(Accelerator):
    """ONNX Runtime's CUDA provider; never run on a device yet, see `paring doctor`.

    `tf32` lets matrix products round to 10 bits of mantissa; off, results are f32.
    """

    tf32: bool = False

    name: ClassVar[str] = "cuda"
    provider: ClassVar[str] = _CUDA

    def providers(self) -> Providers:
        """CUDA, then the CPU."""
        return [(_CUDA, {"use_tf32": str(int(self.tf32))}), (CPU, {})]

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """Full precision, then TF32."""
        yield cls()
        yield cls(tf32=True)


@dataclass(frozen=True)
class TensorRT(Accelerator):
    """ONNX Runtime's TensorRT provider; never run on a device yet, see `paring doctor`.

    `half` lets TensorRT choose f16 kernels.
    """

    half: bool = False

    name: ClassVar[str] = "tensorrt"
    provider: ClassVar[str] = _TENSORRT

    def providers(self) -> Providers:
        """TensorRT, then CUDA, then the CPU."""
        return [(_TENSORRT, {"trt_fp16_enable": str(int(self.half))}), (_CUDA, {"use_tf32": "0"}), (CPU, {})]

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """Full precision, then half."""
        yield cls()
        yield cls(half=True)
