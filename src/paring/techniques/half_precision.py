"""HalfPrecision: weights stored in 16 bits, and the request to compute in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import onnx
from onnx import TensorProto, helper

from paring.backends.precision import EXECUTION_PRECISION_KEY, ExecutionPrecision
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import weighted_layers
from paring.graph.placement import weight_misfit
from paring.graph.refusals import require_finite
from paring.ops.quantization import to_bfloat16
from paring.settings import check_types
from paring.techniques.base import GraphTechnique
from paring.techniques.layer_coverage import layer_coverage
from paring.types import Coverage

Half = Literal["bf16", "fp16"]
LEAST_ELEMENTS = 64
"""Smaller constants stay float32: their bytes are no gain, and scales and biases keep their digits."""

LARGEST_FP16 = float(np.finfo(np.float16).max)
_EXECUTION: dict[Half, ExecutionPrecision] = {"bf16": "bf16", "fp16": "f16"}


@dataclass(frozen=True)
class HalfPrecision(GraphTechnique):
    """Weights in bfloat16 or float16 on disk, cast back where they are read; metadata asks to compute in that type.

    A backend that has no such kernels refuses the graph. With `storage_only` nothing is asked for: every backend
    computes in float32, with half the bytes on disk and the rounded weights. float16 weights beyond its range
    (65,504) stay float32.
    """

    dtype: Half = "bf16"
    storage_only: bool = False

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def execution(self) -> ExecutionPrecision:
        """The type of the weights, unless it is for storage only."""
        return "f32" if self.storage_only else _EXECUTION[self.dtype]

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with 16-bit weights. Raises TechniqueError where a weight holds NaN or infinity."""
        require_finite(graph)
        editable = Graph(graph)
        for name in [tensor.name for tensor in editable.model.graph.initializer]:
            value = editable.constant(name)
            if value is None or value.dtype != np.float32 or value.size < LEAST_ELEMENTS:
                continue
            if np.abs(value).max() <= (np.inf if self.dtype == "bf16" else LARGEST_FP16):
                self._narrow(editable, name, value)
        if not self.storage_only:
            editable.set_metadata(EXECUTION_PRECISION_KEY, self.execution)
        return editable.finished()

    def _narrow(self, graph: Graph, name: str, value: np.ndarray) -> None:
        """Store the constant in 16 bits and let a Cast make the tensor of its old name."""
        stored = graph.unique(f"{name}_half")
        if self.dtype == "bf16":
            kind, raw = TensorProto.BFLOAT16, to_bfloat16(value).astype("<u2").tobytes()
        else:
            kind, raw = TensorProto.FLOAT16, value.astype("<f2").tobytes()
        graph.replace_constant(name, helper.make_tensor(stored, kind, value.shape, raw, raw=True))
        graph.add_named_node("Cast", [stored], name, to=TensorProto.FLOAT)

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where they stayed float32."""
        graph = Graph(before)
        reasons = {layer.name: weight_misfit(graph, layer.weight) for layer in weighted_layers(graph.model)}
        otherwise = f"its weights are small or beyond the range of {self.dtype}"
        return layer_coverage(self.name, before, after, reasons, otherwise)

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """bf16 first: it keeps float32's range. Stored alone, float16 is the finer.

        Raises TechniqueError where no constant is worth it.
        """
        large = [t for t in Graph(graph).model.graph.initializer if int(np.prod(t.dims)) >= LEAST_ELEMENTS]
        if not any(tensor.data_type == TensorProto.FLOAT for tensor in large):
            raise TechniqueError(f"no float32 weight of the network has {LEAST_ELEMENTS} elements or more.")
        yield cls("bf16")
        yield cls("fp16")
        yield cls("fp16", storage_only=True)
