"""How operators without parameters carry channels: elementwise, pooling, reductions, reshaping, joining, cutting."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from paring.graph.channels.atoms import Dims, Ids
from paring.graph.channels.calls import Call, Counted, Value, fixed, is_tensor, layer_of, shape_of

FUSED = 3
"""Queries, keys and values that one layer makes."""


def same(call: Call) -> Dims:
    """The first tensor's dimensions, unchanged."""
    return call.dims_of(call.tensors()[0])


def elementwise(call: Call) -> Dims:
    """Broadcast from the right; dimensions that meet are coupled."""
    shape = call.out_shape
    return tuple(call.meeting(call.tensors(), back, shape[-back]) for back in range(len(shape), 0, -1))


def spatial(call: Call) -> Value:
    """Pooling and resizing: the trailing one to three dimensions are space, the rest goes on."""
    node = call.tensors()[0]
    dims = call.dims_of(node)
    digits = [int(character) for character in call.operator if character in "123"]
    space = digits[0] if digits else len(dims) - 2
    for ids in dims[len(dims) - space :]:
        call.freeze(ids, "treats them as positions in space")
    result = (*dims[: len(dims) - space], *fixed(space))
    outputs = call.node.meta["val"]
    return (result,) * len(outputs) if isinstance(outputs, tuple | list) else result


def _axes(dim: Any, rank: int) -> set[int]:
    """Dimensions that a `dim` argument names: none given means all."""
    if dim is None or dim == []:
        return set(range(rank))
    return {int(axis) % max(rank, 1) for axis in (dim if isinstance(dim, Sequence) else [dim])}


def reduction(call: Call) -> Value:
    """Sums, means and the like: a reduced dimension must stay, the others go on; of two tensors one by one."""
    if "other" in call.arguments:
        return elementwise(call)
    dims = call.dims("self")
    axes = _axes(call.arguments.get("dim"), len(dims))
    for axis in axes:
        call.freeze(dims[axis] if dims else None, "reduces over them")
    kept: list[Ids | None] = []
    for axis, ids in enumerate(dims):
        if axis not in axes:
            kept.append(ids)
        elif call.arguments.get("keepdim"):
            kept.append(None)
    outputs = call.node.meta["val"]
    return (tuple(kept),) * len(outputs) if isinstance(outputs, tuple | list) else tuple(kept)


def along(call: Call) -> Value:
    """Softmax, cumulated sums, rolls, sorting: the dimensions that they run along must stay."""
    dims = call.dims_of(call.tensors()[0])
    given = call.arguments["dims"] if "dims" in call.arguments else call.arguments["dim"]
    axes = _axes(given, len(dims))
    for axis in axes:
        call.freeze(dims[axis] if dims else None, "mixes them")
    kept = tuple(None if axis in axes else ids for axis, ids in enumerate(dims))
    return kept if is_tensor(call.node) else (kept,) * len(call.node.meta["val"])


def _merged(call: Call, dims: Dims, shape: tuple[int, ...]) -> Ids | None:
    """Atoms of several dimensions flattened into one: those of the only one that has any, repeated over the rest."""
    holders = [axis for axis, ids in enumerate(dims) if ids is not None]
    if len(holders) > 1:
        for ids in dims:
            call.freeze(ids, "flattens them with other channels")
        return None
    if not holders:
        return None
    axis = holders[0]
    pattern = [1] * len(shape)
    pattern[axis] = shape[axis]
    ids = dims[axis]
    return None if ids is None else np.broadcast_to(ids.reshape(pattern), shape).reshape(-1)


def _split(call: Call, ids: Ids | None, shape: tuple[int, ...]) -> Dims:
    """Atoms of one dimension over several: those along one of them stay apart, the others are coupled with them.

    So the heads of an attention, (heads * width) seen as (heads, width), go each as a whole.
    """
    if ids is None or not shape:
        return fixed(len(shape))
    lines = [np.moveaxis(ids.reshape(shape), axis, 0).reshape(size, -1) for axis, size in enumerate(shape)]
    varying = [axis for axis, line in enumerate(lines) if (line != line[:1]).any()]
    if not varying:
        return fixed(len(shape))
    axis = varying[_apart(tuple(shape[axis] for axis in varying))]
    for column in lines[axis].T[1:]:
        call.atoms.join(lines[axis][:, 0], column)
    call.counted.append(Counted(layer_of(call.node), lines[axis][:, 0]))
    return tuple(lines[axis][:, 0].copy() if at == axis else None for at in range(len(shape)))


def _apart(shape: tuple[int, ...]) -> int:
    """Which of several dimensions holds what can go: the first, as heads do, unless that tells three matrices apart."""
    return 1 if len(shape) > 2 and shape[0] == FUSED else 0


def _segments(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The shortest runs of dimensions of equal size in both shapes, left to right."""
    runs: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = i + 1, j + 1
        while prod(before[i:left]) != prod(after[j:right]):
            if prod(before[i:left]) < prod(after[j:right]):
                left += 1
            else:
                right += 1
        runs.append((slice(i, left), slice(j, right)))
        i, j = left, right
    return runs


def reshape(call: Call) -> Dims:
    """View, reshape, flatten, unflatten, squeeze, unsqueeze: followed run by run of equal size."""
    node = call.tensors()[0]
    full, dims, target = shape_of(node), call.dims_of(node), call.out_shape
    if prod(full) == 0:
        raise ValueError("a sample with an empty tensor can't be followed")
    wide = [axis for axis, size in enumerate(full) if size > 1]
    places = [axis for axis, size in enumerate(target) if size > 1]
    before, after = tuple(full[axis] for axis in wide), tuple(target[axis] for axis in places)
    result: list[Ids | None] = [None] * len(target)
    for source, goal in _segments(before, after):
        taken = tuple(dims[axis] for axis in wide[source])
        given = _split(call, _merged(call, taken, before[source]), after[goal])
        for axis, ids in zip(places[goal], given, strict=True):
            result[axis] = ids
    return tuple(result)


def permute(call: Call) -> Dims:
    """Permute, transpose, t, mT and movedim by what they do to the order."""
    dims = call.dims("self")
    if "dims" in call.arguments:
        return tuple(dims[int(axis)] for axis in call.arguments["dims"])
    if call.operator in ("t", "numpy_T"):
        return dims[::-1]
    names = ("axis0", "axis1") if "axis0" in call.arguments else ("dim0", "dim1")
    first, second = ((call.axis(name, len(dims)) if name in call.arguments else i - 2) for i, name in enumerate(names))
    order = list(dims)
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def concatenate(call: Call) -> Dims:
    """Channels one after the other; the remaining dimensions meet. Empty tensors of any rank take no part."""
    rank = len(call.out_shape)
    parts = [call.dims_of(node) for node in call.arguments["tensors"] if len(shape_of(node)) == rank]
    axis = call.axis("dim", rank)
    result: list[Ids | None] = []
    for at in range(rank):
        column = [dims[at] for dims in parts]
        if at != axis:
            first = column[0]
            for other in column[1:]:
                if first is not None or other is not None:
                    first = call.couple(first, other)
            result.append(first)
        else:
            result.append(_joined(call, column))
    return tuple(result)


def _joined(call: Call, column: Sequence[Ids | None]) -> Ids | None:
    """One run of atoms; where a part has a fixed size the offsets of the others are not known after removal."""
    known = [ids for ids in column if ids is not None]
    if len(known) == len(column):
        return np.concatenate(known)
    for ids in known:
        call.freeze(ids, "joins them end to end with a dimension of fixed size")
    return None


def stack(call: Call) -> Dims:
    """A new dimension; the others meet."""
    parts = [call.dims_of(node) for node in call.arguments["tensors"]]
    axis = call.axis("dim", len(call.out_shape))
    result = list(parts[0])
    for other in parts[1:]:
        for at, ids in enumerate(other):
            if result[at] is not None or ids is not None:
                result[at] = call.couple(result[at], ids)
    return (*result[:axis], None, *result[axis:])


def cut(call: Call) -> Dims:
    """Slice, narrow, pad, repeat: a dimension that changes its size must stay, the others go on."""
    node = call.tensors()[0]
    dims, before, after = call.dims_of(node), shape_of(node), call.out_shape
    lead = len(after) - len(before)
    amounts = call.arguments.get("pad") or []
    shifted = {len(before) - 1 - at // 2 for at, amount in enumerate(amounts) if amount}
    result: list[Ids | None] = list(fixed(lead))
    for at, ids in enumerate(dims):
        if (before[at] != after[at + lead] or at in shifted) and before[at] > 1:
            size = after[at + lead]
            result.append(call.stay(ids, size, f"changes their number from {before[at]} to {size}"))
        else:
            result.append(ids)
    return tuple(result)


def select(call: Call) -> Dims:
    """One index of a dimension, which then is gone."""
    dims = call.dims("self")
    axis = call.axis("dim", len(dims))
    call.freeze(dims[axis], "picks one of them by its number")
    return (*dims[:axis], *dims[axis + 1 :])


def index(call: Call) -> Dims:
    """What tensors of numbers pick from the leading dimensions: those must stay, the others go on."""
    dims, picked = call.dims("self"), call.arguments["indices"]
    for ids in dims[: len(picked)]:
        call.freeze(ids, "picks some of them by their numbers")
    return (*fixed(len(call.out_shape) - len(dims) + len(picked)), *dims[len(picked) :])


def pieces(call: Call) -> Value:
    """Split and chunk. Equal parts lose the same channels; what is cut otherwise, or taken apart by unbind, stays."""
    node = call.tensors()[0]
    dims = call.dims_of(node)
    axis = call.axis("dim", len(dims))
    outputs = call.node.meta["val"]
    ids, parts = dims[axis], len(outputs)
    drop = call.operator == "unbind"
    halves: list[Ids | None] = [None] * parts
    if ids is not None and not drop and len({output.shape[axis] for output in outputs}) == 1:
        rows = ids.reshape(parts, -1)
        call.counted.append(Counted(layer_of(call.node), rows[0], part=True))
        for row in rows[1:]:
            call.atoms.join(rows[0], row)
        halves = list(rows)
    else:
        call.freeze(ids, "cuts them at fixed places")
    return tuple((*dims[:axis], *(() if drop else (half,)), *dims[axis + 1 :]) for half in halves)


def gated(call: Call) -> Dims:
    """glu: the first half times the sigmoid of the second; both lose the same channels."""
    dims = call.dims("self")
    axis = call.axis("dim", len(dims))
    ids = dims[axis]
    if ids is None:
        return dims
    first, second = ids.reshape(2, -1)
    call.atoms.join(first, second)
    return (*dims[:axis], first, *dims[axis + 1 :])
