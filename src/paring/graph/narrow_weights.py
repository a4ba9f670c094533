"""Weights of few bits in a graph whose activations stay float: how they are stored, and what reads them.

Stored are integers, or codes that a table of levels turns into floats, and a scale for each output or block of its
inputs. Operators of plain arithmetic bring the floats back: ONNX Runtime folds these as it loads a network, while it
runs a DequantizeLinear in front of Conv or Gemm in each call; OpenVINO recognises both. Codes take a byte or two each:
artifacts keep them in as many bits as they need.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from paring.graph.integer_weights import gemm_folded
from paring.graph.onnx_graph import Array, Graph
from paring.graph.placement import channel_axis
from paring.ops.formats import Format
from paring.ops.grid import Grid

MICROSOFT = "com.microsoft"
KERNEL_BLOCKS = (256, 128, 64, 32, 16)
"""Inputs in a row that share a scale in MatMulNBits, the most first."""

SCALE_BYTES = 4

_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16)


def turned(node: onnx.NodeProto) -> bool:
    """Whether the weight of a layer has its outputs on the second axis, not on the first."""
    return node.op_type != "Gather" and channel_axis(node) == 1


def kernel_bits(form: Format | None) -> int | None:
    """In how many bits MatMulNBits holds the levels; None where it does not hold them."""
    if form is None or not form.is_integral:
        return None
    low, high = form.levels[0], form.levels[-1]
    return 4 if (low >= -8 and high <= 7) or (low >= 0 and high <= 15) else 8


def kernel_block(columns: int, blocks: int, bits: int) -> int | None:
    """The block of MatMulNBits in which rows of so many columns take the fewest bytes; None where none fits.

    It divides each block of a row. Of a row that has one scale, which none divides, the last block is filled up:
    OpenVINO has no kernel for that.
    """
    dividing = [size for size in KERNEL_BLOCKS if columns // blocks % size == 0]
    fitting = dividing or (KERNEL_BLOCKS if blocks == 1 else ())
    return min(fitting, key=lambda size: -(-columns // size) * (size * bits // 8 + SCALE_BYTES), default=None)


def integers_of(form: Format | None) -> Any:
    """The narrowest type of integers that holds all levels; None where some level is none."""
    if form is None:
        return None
    wide = form.values.astype(np.int64)
    return next((kind for kind in _INTEGERS if np.array_equal(wide.astype(kind), form.values)), None)


class NarrowWeight:
    """A constant of a graph that its readers take from codes, each stored once whoever reads it.

    `rows` is the float weight, shape (outputs, columns), for lookups (entries, columns); `flipped` says that outputs
    lie on the second axis of the constant. A ConvTranspose in groups has a row for each output of a group, with what it
    reads in all of them. Grid and codes are set before anything reads.
    """

    grid: Grid
    codes: Array

    def __init__(self, graph: Graph, name: str, *, flipped: bool) -> None:
        weight = graph.constant(name)
        assert weight is not None
        self.graph, self.name, self.flipped = graph, name, flipped
        first = weight.swapaxes(0, 1) if flipped else weight
        self.shape: tuple[int, ...] = first.shape
        self.rows: Array = first.reshape(len(first), -1)

    @cached_property
    def dequantized(self) -> str:
        """A tensor like the constant, whose values the codes stand for."""
        value = self._values("")
        if self._blocks > 1:
            target = self.graph.add_constant(np.array(self.shape), f"{self.name}_shape")
            value = self.graph.add_node("Reshape", [value, target], f"{self.name}_joined")
        if self.flipped:
            axes = [1, 0, *range(2, len(self.shape))]
            value = self.graph.add_node("Transpose", [value], f"{self.name}_turned", perm=axes)
        return value

    def look_up(self, node: onnx.NodeProto, axes: int) -> None:
        """Dequantize the rows that a Gather finds by indices of so many axes, in place of the whole table."""
        output = node.output[0]
        value = self._values(node.input[1])
        if self._blocks > 1:
            target = self.graph.add_constant(np.array([*[0] * axes, *self.shape[1:]]), f"{output}_shape")
            self.graph.add_node("Reshape", [value, target], output)
        self._take_place(node)

    def multiply(self, node: onnx.NodeProto, accuracy_level: int) -> None:
        """Put MatMulNBits in the place of a Gemm or MatMul; `kernel_bits` and `kernel_block` tell what it takes."""
        output, (count, columns) = node.output[0], self.rows.shape
        factor, bias = gemm_folded(self.graph, node, self.rows if not turned(node) else self.rows.T)
        packed, scale, *zero_point = self._packed
        if factor != 1:
            own = np.asarray(self.graph.constant(scale)) * factor
            scale = self.graph.add_constant(own.astype(np.float32), f"{output}_scale")
        bits, block = self._kernel
        sizes = {"K": columns, "N": count, "bits": bits, "block_size": block, "accuracy_level": accuracy_level}
        inputs = [node.input[0], packed, scale, *zero_point]
        product = self.graph.add_node("MatMulNBits", inputs, f"{output}_product", domain=MICROSOFT, **sizes)
        if bias is not None:
            shift = self.graph.add_constant(np.array(bias), f"{output}_bias")
            self.graph.add_node("Add", [product, shift], output)
        self._take_place(node)
        if all(entry.domain != MICROSOFT for entry in self.graph.model.opset_import):
            self.graph.model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))

    def _take_place(self, node: onnx.NodeProto) -> None:
        """Let the newest node make what the given one did."""
        self.graph.model.graph.node[-1].output[0] = node.output[0]
        self.graph.model.graph.node.remove(node)

    @property
    def _blocks(self) -> int:
        return int(self.grid.scale.shape[1])

    @cached_property
    def _laid(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the stored codes and of the scales: with an axis for blocks, where a row has several."""
        count, blocks = len(self.rows), self._blocks
        if blocks > 1:
            return (count, blocks, -1), (count, blocks, 1)
        return self.shape, (count, *[1] * (len(self.shape) - 1))

    @cached_property
    def _quantized(self) -> str:
        """Stored integers, or codes where the levels are none."""
        kind = integers_of(self.grid.format)
        stored = self.codes if kind is None else self.grid.format.decode(self.codes).astype(kind)
        return self.graph.add_constant(stored.reshape(self._laid[0]), f"{self.name}_quantized")

    @cached_property
    def _levels(self) -> str:
        return self.graph.add_constant(self.grid.format.values, f"{self.name}_levels")

    @cached_property
    def _scale(self) -> str:
        return self.graph.add_constant(self._of_rows(self.grid.scale).reshape(self._laid[1]), f"{self.name}_scale")

    @cached_property
    def _zero_point(self) -> str:
        assert self.grid.zero_point is not None
        zero = self._of_rows(self.grid.zero_point).astype(integers_of(self.grid.format))
        return self.graph.add_constant(zero.reshape(self._laid[1]), f"{self.name}_zero_point")

    def _of_rows(self, values: Array) -> Array:
        """A value for each row and block."""
        return np.array(np.broadcast_to(values, (len(self.rows), self._blocks)))

    def _values(self, indices: str) -> str:
        """Nodes that dequantize: the whole weight, or the rows of some indices."""
        add = self.graph.add_node
        if integers_of(self.grid.format) is None:
            places = add("Cast", [self._read(self._quantized, indices)], f"{self.name}_codes", to=TensorProto.INT32)
            value = add("Gather", [self._levels, places], f"{self.name}_values")
        else:
            value = self._float(self._quantized, indices)
        if self.grid.zero_point is not None and self.grid.zero_point.any():
            value = add("Sub", [value, self._float(self._zero_point, indices)], f"{self.name}_shifted")
        if (self.grid.scale != 1).any():
            value = add("Mul", [value, self._read(self._scale, indices)], f"{self.name}_dequantized")
        return value

    def _read(self, name: str, indices: str) -> str:
        return self.graph.add_node("Gather", [name, indices], f"{name}_rows") if indices else name

    def _float(self, name: str, indices: str) -> str:
        return self.graph.add_node("Cast", [self._read(name, indices)], f"{name}_float", to=TensorProto.FLOAT)

    @property
    def _kernel(self) -> tuple[int, int]:
        """Bits and block of MatMulNBits."""
        bits = kernel_bits(self.grid.format)
        assert bits is not None
        block = kernel_block(self.rows.shape[1], self._blocks, bits)
        assert block is not None
        return bits, block

    @cached_property
    def _packed(self) -> tuple[str, ...]:
        """As MatMulNBits reads them: codes (outputs, blocks, bytes), scales, and zero points of unsigned levels."""
        (bits, block), (count, columns) = self._kernel, self.rows.shape
        unsigned = self.grid.format.levels[0] >= 0
        whole = self.grid.format.decode(self.codes).astype(np.int16) + (0 if unsigned else 2 ** (bits - 1))
        filled = np.pad(whole, [(0, 0), (0, -columns % block)]).reshape(count, -1, block)
        each = filled.shape[1] // self._blocks
        used = self.grid.values(self.codes).reshape(count, self._blocks, -1).any(axis=-1)
        # Where all weights are 0, kernels that add in int8 would leave a trace of their rounding.
        scale = np.where(used, self._of_rows(self.grid.scale), np.float32(0))
        parts = {"packed": _bytes(filled, bits), "scales": scale.repeat(each, axis=1)}
        if unsigned:
            assert self.grid.zero_point is not None
            parts["zero_points"] = _bytes(self._of_rows(self.grid.zero_point).repeat(each, axis=1), bits)
        return tuple(self.graph.add_constant(value, f"{self.name}_{part}") for part, value in parts.items())


def _bytes(values: Array, bits: int) -> Array:
    """uint8 of 4 or 8 bits along the last axis, the first in the lower half; an odd end is filled with 0."""
    codes = values.astype(np.uint8)
    if bits == 8:
        return codes
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return np.asarray(padded[..., ::2] | (padded[..., 1::2] << 4))
