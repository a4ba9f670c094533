"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from paring.backends.cores import fewer_threads, threads_taken
from paring.backends.providers import CPU, Opening, Optimization, ProviderBackend, Providers
from paring.backends.splitting import check_split
from paring.errors import BackendError
from paring.types import Budget


@dataclass(frozen=True)
class OnnxRuntime(ProviderBackend):
    """ONNX Runtime's CPU provider.

    `streams` pieces of a batch run side by side on threads/streams threads each, in steps of `micro_batch` rows (0:
    whole). `threads` (0: all) and streams are never more than the threads that the network is given. `spinning` lets
    idle threads wait actively: faster, and it takes a core from whoever else needs one. `optimization` "basic" leaves
    every name of the graph in place, "off" every node too.

    `skip_layer_norm` fuses an addition with the layer norm behind it, as ONNX Runtime does when left alone: its fused
    kernel goes number by number and takes 1.4 to 8.6 times as long as the two that it replaces
    (`benchmarks/layer_norm.py`; ONNX Runtime 1.31).
    """

    streams: int = 1
    micro_batch: int = 0
    spinning: bool = True
    optimization: Optimization = "all"
    threads: int = 0
    skip_layer_norm: bool = False

    name: ClassVar[str] = "onnxruntime"
    package: ClassVar[str | None] = "onnxruntime"
    provider: ClassVar[str] = CPU

    def __post_init__(self) -> None:
        check_split(streams=self.streams, micro_batch=self.micro_batch, threads=self.threads)
        if self.optimization not in ("all", "basic", "off"):
            raise BackendError(f"optimization={self.optimization!r} is unknown: choose all, basic or off.")

    def providers(self) -> Providers:
        """The CPU alone."""
        return [(CPU, {})]

    def opening(self, threads: int) -> Opening:
        """The threads that it takes, shared among the streams."""
        threads = threads_taken(self.threads, threads)
        lanes = min(self.streams, threads)
        without = () if self.skip_layer_norm else ("SkipLayerNormFusion",)
        return Opening(threads // lanes, lanes, self.micro_batch, self.spinning, self.optimization, without)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """The default; for batches, streams of one thread each, and pieces that fit the cache; then fewer threads.

        Last come threads that sleep while they wait: a CPU quota or a shared machine may ask for it.
        """
        yield cls()
        if threads > 1 and budget.batch_size >= 2 * threads:
            yield cls(streams=threads)
            if budget.batch_size >= 32 * threads:
                yield cls(streams=threads, micro_batch=16)
        for fewer in fewer_threads(threads, budget.batch_size):
            yield cls(threads=fewer)
        if threads > 1:
            yield cls(spinning=False)
