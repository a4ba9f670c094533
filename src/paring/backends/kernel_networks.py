"""Small networks whose layers are in one form, with what they must answer: NumPy computes it from the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from paring.backends.kernel_forms import Form, Layer
from paring.backends.precision import EXECUTION_PRECISION_KEY
from paring.ops.formats import format_of
from paring.types import Array, Arrays

STRIP = 32
"""Weights repeat after so many outputs: all of their bytes are there, and rounding them takes no time."""

BLOCK = 32
"""Inputs of a linear layer that share a scale, where weights alone are narrow."""

UINT4_ZERO = 8
_MICROSOFT = "com.microsoft"
_TYPES = {"bfloat16": "BFLOAT16", "e4m3": "FLOAT8E4M3FN", "e5m2": "FLOAT8E5M2", "e2m1": "FLOAT4E2M1"}
SIGNED = ("int8", "e4m3")
_TOPS = {"uint8": 255.0, "int8": 127.0, "uint16": 65535.0, "e4m3": 448.0}


@dataclass(frozen=True)
class Sample:
    """A network, one batch for it, and its right answer y, shape (rows, channels) or (rows, channels, h, w)."""

    model: onnx.ModelProto
    inputs: Arrays
    answer: Array


def sample(form: Form, layer: Layer) -> Sample:
    """Layers of random weights, a rectifier behind each, on random inputs that are not negative."""
    random = np.random.default_rng(0)
    inputs = np.abs(random.standard_normal(layer.inputs, dtype=np.float32))
    shape = (layer.channels, STRIP, *layer.kernel)
    spread = (layer.channels * 3 ** len(layer.kernel)) ** -0.5
    strips = [random.standard_normal(shape, dtype=np.float32) * np.float32(spread) for _ in range(layer.depth)]
    return _grown(form, layer, inputs, strips)


def extreme_sample(form: Form, layer: Layer) -> Sample:
    """One layer of inputs and weights that are the largest there are, so that sums of their products are too."""
    return _grown(
        form, layer, np.ones(layer.inputs, np.float32), [np.ones((layer.channels, STRIP, *layer.kernel), np.float32)]
    )


def _grown(form: Form, layer: Layer, x: Array, strips: Sequence[Array]) -> Sample:
    network, name, inputs = _Network(form, layer), "x", x
    for strip in strips:
        levels, scale = _rounded(form, layer, strip)
        copies = layer.channels // STRIP
        name, x = network.narrowed(name, x)
        name = network.product(name, _repeated(levels, copies), _repeated(scale, copies))
        x = _repeated(_product(x, levels * scale.repeat(len(levels) // len(scale), axis=0)), copies)
        name, x = network.rectified(name, x)
    if form.edges:
        name, x = network.narrowed(name, x)
    return Sample(network.model(name), {"x": inputs}, x.astype(np.float32))


class _Network:
    """Nodes and constants in one form."""

    def __init__(self, form: Form, layer: Layer) -> None:
        self.form, self.layer = form, layer
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of what the new node makes."""
        return self.nodes_of(kind, inputs, 1, **attributes)[0]

    def nodes_of(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """The names of all that the new node makes."""
        made = [f"t{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, **attributes))
        return made

    def constant(self, value: Any, kind: str = "") -> str:
        """The name of a new constant, converted to a type that `kind` names."""
        name, array = f"c{len(self.constants)}", np.asarray(value)
        if kind:
            array = array.astype(_dtype(kind))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def narrowed(self, name: str, x: Array) -> tuple[str, Array]:
        """A layer's input through its format, and the numbers that come out of it."""
        kind, clip = self.form.activations, self.form.clip
        if kind == "float32":
            return name, x
        top, low = clip or _TOPS[kind], -_TOPS[kind] if kind in SIGNED else 0
        scale = np.float32(np.abs(x).max() / top)
        levels = format_of(kind).decode(format_of(kind).encode(x / scale)) if kind == "e4m3" else np.rint(x / scale)
        if self.form.way != "dynamic":
            constants = self.constant(scale), self.constant(0, kind)
            name = self.node("QuantizeLinear", name, *constants)
            if clip:
                name = self.node("Clip", name, self.constant(0, kind), self.constant(clip, kind))
            name = self.node("DequantizeLinear", name, *constants)
        return name, (np.clip(levels, low, top) * scale).astype(np.float32)

    def rectified(self, name: str, x: Array) -> tuple[str, Array]:
        """What comes out of a layer, not negative any more.

        Unsigned integers behind a rectifier do its work; signed ones have to stand on both sides of it, or runtimes
        see no integers behind the layer. Another function needs floats, so that integers begin anew after it.
        """
        if not self.form.edges:
            return self.node("Abs", name), np.abs(x)
        if self.form.activations in SIGNED:
            name, x = self.narrowed(name, x)
        return self.node("Relu", name), np.maximum(x, 0)

    def product(self, x: str, levels: Array, scale: Array) -> str:
        """A layer with the weights levels x scale, of shape (inputs, outputs, ...) and (blocks, outputs, ...)."""
        if self.form.way == "dynamic":
            return self._dynamic(x, levels, scale)
        if self.form.way == "MatMulNBits":
            return self._packed(x, levels, scale)
        weight = {"float": self._float, "cast": self._cast, "pairs": self._dequantized, "gathered": self._gathered}
        weights = weight[self.form.way](levels, scale)
        return self.node("Conv", x, weights, pads=[1] * 4) if self.layer.kernel else self.node("MatMul", x, weights)

    def _laid(self, values: Array) -> Array:
        """As the layer reads its weights: a convolution has its outputs first."""
        return np.ascontiguousarray(values.swapaxes(0, 1)) if self.layer.kernel else values

    def _float(self, levels: Array, scale: Array) -> str:
        return self.constant(self._laid(levels))

    def _cast(self, levels: Array, scale: Array) -> str:
        return self.node("Cast", self.constant(self._laid(levels), self.form.weights), to=TensorProto.FLOAT)

    def _dequantized(self, levels: Array, scale: Array) -> str:
        kind, outputs = self.form.weights, 0 if self.layer.kernel else 1
        zero = UINT4_ZERO if kind == "uint4" else 0
        stored = self.constant(self._laid(levels) + zero, kind)
        blocks = len(scale) > 1
        units = scale if blocks else scale.reshape(-1)
        given = [stored, self.constant(units), *([self.constant(np.full(units.shape, zero), kind)] if zero else [])]
        how = {"axis": 0, "block_size": BLOCK} if blocks else {"axis": outputs}
        return self.node("DequantizeLinear", *given, **how)

    def _gathered(self, levels: Array, scale: Array) -> str:
        """Codes into a table, times the scale of their block; whoever loads it may fold all of it."""
        kind = format_of(self.form.weights)
        codes = self.node("Cast", self.constant(self._laid(kind.encode(levels))), to=TensorProto.INT32)
        found = self.node("Gather", self.constant(kind.values), codes)
        each = scale.repeat(len(levels) // len(scale), axis=0) if len(scale) > 1 else scale
        return self.node("Mul", found, self.constant(self._laid(each)))

    def _dynamic(self, x: str, levels: Array, scale: Array) -> str:
        integers, unit, zero = self.nodes_of("DynamicQuantizeLinear", [x], 3)
        stored, kernel = self.constant(self._laid(levels), self.form.weights), self.layer.kernel
        kind, how = ("ConvInteger", {"pads": [1] * 4}) if kernel else ("MatMulInteger", {})
        whole = self.node("Cast", self.node(kind, integers, stored, zero, **how), to=TensorProto.FLOAT)
        return self.node("Mul", whole, self.node("Mul", unit, self.constant(scale.reshape(-1, *kernel and (1, 1)))))

    def _packed(self, x: str, levels: Array, scale: Array) -> str:
        bits, (fan_in, outputs) = format_of(self.form.weights).bits, levels.shape
        each = 8 // bits
        codes = (levels.T + 2 ** (bits - 1)).astype(np.uint8).reshape(outputs, fan_in // BLOCK, -1, each)
        bytes_ = (codes << (bits * np.arange(each, dtype=np.uint8))).sum(-1, dtype=np.uint8)
        how = {"K": fan_in, "N": outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": self.form.accuracy_level}
        constants = self.constant(bytes_), self.constant(np.ascontiguousarray(scale.T))
        return self.node("MatMulNBits", x, *constants, domain=_MICROSOFT, **how)

    def model(self, output: str) -> onnx.ModelProto:
        """The network, for any number of rows."""
        layer, opset = self.layer, self.form.opset
        described = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *shape])
            for name, shape in (("x", layer.inputs[1:]), (output, (layer.channels, *layer.inputs[2:])))
        ]
        graph = helper.make_graph(self.nodes, "kernels", described[:1], described[1:], self.constants)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid(_MICROSOFT, 1)]
        version = helper.find_min_ir_version_for(imports[:1])
        model = helper.make_model(graph, opset_imports=imports, ir_version=version)
        helper.set_model_props(model, {EXECUTION_PRECISION_KEY: self.form.asks})
        return model


def _dtype(name: str) -> np.dtype[Any]:
    """Of a format that ONNX has a type for."""
    return helper.tensor_dtype_to_np_dtype(getattr(TensorProto, _TYPES.get(name, name.upper())))


def _rounded(form: Form, layer: Layer, strip: Array) -> tuple[Array, Array]:
    """Levels of the shape (inputs, STRIP, ...), and the scales of whole channels or of blocks, (blocks, STRIP, ...)."""
    if form.way in ("float", "cast"):
        stored = strip.astype(_dtype(form.weights)) if form.way == "cast" else strip
        return stored.astype(np.float32), np.ones((1, *strip.shape[1:]), np.float32)
    alone = form.activations == "float32" and not layer.kernel
    blocks = strip.reshape(len(strip) // BLOCK if alone else 1, -1, *strip.shape[1:])
    most = np.abs(blocks).max(axis=(1, *range(3, blocks.ndim)), keepdims=True)
    scale = (most / form.reach).astype(np.float32)
    kind = format_of("int4" if form.weights == "uint4" else form.weights)
    return kind.decode(kind.encode(blocks / scale)).reshape(strip.shape), scale[:, 0]


def _product(x: Array, weights: Array) -> Array:
    """x (rows, inputs, ...) by weights (inputs, outputs, ...): a product of matrices, or a padded convolution."""
    if weights.ndim == 2:
        return np.asarray(x @ weights)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, weights.shape[2:], axis=(2, 3))
    return np.asarray(np.einsum("nchwij,coij->nohw", windows, weights, optimize=True))


def _repeated(values: Array, copies: int) -> Array:
    """Side by side along axis 1."""
    return np.tile(values, (1, copies, *(1,) * (values.ndim - 2)))
