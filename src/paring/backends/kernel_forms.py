"""How ONNX says in which numbers a layer computes, and the layers that are measured: the rows of the table of kernels.

`int8` has int8 weights, uint8 inputs and QuantizeLinear and DequantizeLinear around every layer; what follows a comma
differs from that. `int8 dynamic` is DynamicQuantizeLinear before a product of integers. Integers of 4 bits stand in the
8 of int8 and uint8 there, since ONNX has no products of them. What is called `weights` stores these so, and leaves all
else in floats; `MatMulNBits` does too, by an operator of its own, which may compute in int8.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from paring.backends.base import Execution
from paring.backends.precision import ExecutionPrecision
from paring.errors import BackendError

Way = Literal["float", "cast", "pairs", "dynamic", "gathered", "MatMulNBits"]


@dataclass(frozen=True)
class Form:
    """Layers in a format. `native` is how a kernel that is made for it executes it.

    `weights` and `activations` are formats of `paring.ops.formats`, float ones or uint16, of which integers up to
    `reach` (weights) and `clip` (activations) are used. With `edges` what comes out of a layer is quantized too;
    `asks` is the precision that the graph asks to be executed in.
    """

    name: str
    native: Execution
    way: Way = "pairs"
    weights: str = "float32"
    reach: float = 0.0
    activations: str = "float32"
    clip: int = 0
    edges: bool = False
    asks: ExecutionPrecision = "f32"
    accuracy_level: int = 0
    opset: int = 21

    @property
    def may_saturate(self) -> bool:
        """Whether it multiplies integers of all 8 bits: two products may not fit 16 bits."""
        return self.activations in ("uint8", "int8") and not self.clip and self.weights == "int8" and self.reach == INT8


@dataclass(frozen=True)
class Layer:
    """So many layers in a row, of `channels` outputs and inputs, on a batch of the shape `inputs`."""

    name: str
    inputs: tuple[int, ...]
    channels: int
    depth: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of a convolution's kernel; none of a product of matrices."""
        return (3, 3) if len(self.inputs) == 4 else ()


INT8, INT4, INT2 = 127.0, 7.0, 1.0
E4M3, E5M2, E2M1 = 448.0, 57344.0, 6.0

LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        each.name: each
        for each in (
            Layer("convolution", (1, 64, 16, 16), 64, 4),
            Layer("linear", (64, 512), 512, 4),
            # More weights than lie in a cache: their bytes are what it costs.
            Layer("linear, one row", (1, 2048), 2048, 2),
        )
    }
)


def _static(told: str, weights: float = INT8, activations: str = "uint8", clip: int = 0, edges: bool = True) -> Form:
    return Form(f"int8{told}", "integers", "pairs", "int8", weights, activations, clip, edges)


def _stored(name: str, weights: str, reach: float, way: Way = "pairs", opset: int = 21) -> Form:
    return Form(f"{name} weights", "packed", way, weights, reach, opset=opset)


def _packed(bits: int, reach: float, accuracy_level: int = 0) -> Form:
    told = f"MatMulNBits {bits}" + (", int8" if accuracy_level else "")
    return Form(told, "packed", "MatMulNBits", f"int{bits}", reach, accuracy_level=accuracy_level)


FP32 = Form("fp32", "float", "float")

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        each.name: each
        for each in (
            FP32,
            Form("bf16", "16 bits", "cast", "bfloat16", asks="bf16"),
            Form("fp16", "16 bits", "cast", "float16", asks="f16"),
            _static(""),
            _static(", int8 inputs", activations="int8"),
            _static(", float outputs", edges=False),
            _static(", 4-bit weights", weights=INT4),
            _static(", 4-bit inputs", clip=15),
            _static(", 16-bit inputs", activations="uint16"),
            Form("int8 dynamic", "integers", "dynamic", "int8", INT8, "uint8"),
            Form("e4m3", "8-bit floats", "pairs", "e4m3", E4M3, "e4m3", edges=True),
            _stored("fp16", "float16", 0.0, "cast"),
            _stored("int8", "int8", INT8),
            _stored("int4", "int4", INT4),
            _stored("uint4", "uint4", INT4),
            _stored("int2", "int2", INT2, opset=25),
            _stored("e4m3", "e4m3", E4M3),
            _stored("e5m2", "e5m2", E5M2),
            _stored("e2m1", "e2m1", E2M1, opset=23),
            _stored("nf4", "nf4", 1.0, "gathered"),
            _packed(8, INT8),
            _packed(8, INT8, accuracy_level=4),
            _packed(4, INT4),
            _packed(4, INT4, accuracy_level=4),
            _packed(2, INT2),
        )
    }
)
"""By name, the yardstick first."""


def form_of(name: str) -> Form:
    """The form of that name. BackendError names the closest known ones."""
    if name not in FORMS:
        close = ", ".join(difflib.get_close_matches(name, FORMS, n=3, cutoff=0.0))
        raise BackendError(f"the table of kernels has no row {name!r}: choose {close}.")
    return FORMS[name]


def said(form: Form, layer: Layer) -> bool:
    """Whether ONNX has words for that layer in that form."""
    return not (form.way == "MatMulNBits" and bool(layer.kernel))
