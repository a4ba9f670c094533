"""How layers with parameters tie channels: convolution, linear, normalisation, embedding, attention."""

from __future__ import annotations

from torch.fx import Node

from paring.graph.channels.atoms import Dims, Ids
from paring.graph.channels.calls import Call, fixed, shape_of


def _grouped(call: Call, ids: Ids | None, groups: int) -> Ids | None:
    """Couple the n-th channel of every group, so that all groups keep the same size; the channels of one group."""
    if ids is None:
        return None
    rows = ids.reshape(groups, -1)
    for row in rows[1:]:
        call.atoms.join(rows[0], row)
    first: Ids = rows[0]
    return first


def convolution(call: Call) -> Dims:
    """(n, in, ...), (out, in/groups, ...) -> (n, out, ...)."""
    groups = call.number("groups")
    channels, weight = call.dims("input"), call.dims("weight")
    axis = len(channels) - (len(weight) - 2) - 1
    produced = call.produce(weight[0])
    if groups == 1:
        call.consume(channels[axis], weight[1])
    elif call.shape("weight")[1] == 1:
        _depthwise(call, channels[axis], produced)
    else:
        _grouped(call, produced, groups)
        shared = weight[1]
        call.consume(_grouped(call, channels[axis], groups), shared)
    for ids in call.dims("bias"):
        call.couple(produced, ids)
    return (*fixed(axis), produced, *fixed(len(weight) - 2))


def _depthwise(call: Call, channels: Ids | None, produced: Ids | None) -> None:
    """Each input channel owns `multiplier` output channels; all of them go together."""
    if channels is None or produced is None:
        call.couple(channels, produced)
        return
    multiplier = len(produced) // len(channels)
    call.couple(channels.repeat(multiplier), produced)


def transposed_convolution(call: Call) -> Dims:
    """(n, in, ...), (in, out/groups, ...) -> (n, out, ...)."""
    channels, weight = call.dims("input"), call.dims("weight")
    axis = len(channels) - (len(weight) - 2) - 1
    if call.number("groups") != 1:
        for ids in (channels[axis], *weight, *call.dims("bias")):
            call.freeze(ids, "is grouped, which is not followed for transposed convolutions")
        return fixed(len(channels))
    produced = call.produce(weight[1])
    call.consume(channels[axis], weight[0])
    for ids in call.dims("bias"):
        call.couple(produced, ids)
    return (*fixed(axis), produced, *fixed(len(weight) - 2))


def linear(call: Call) -> Dims:
    """(..., in), (out, in) -> (..., out)."""
    inputs, weight = call.dims("input"), call.dims("weight")
    call.consume(inputs[-1], weight[1])
    produced = call.produce(weight[0])
    for ids in call.dims("bias"):
        call.couple(produced, ids)
    return (*inputs[:-1], produced)


def addmm(call: Call) -> Dims:
    """(n, out) + (n, in) @ (in, out)."""
    bias, left, right = call.dims("self"), call.dims("mat1"), call.dims("mat2")
    call.consume(left[1], right[0])
    produced = call.produce(right[1])
    if bias and call.shape("self")[-1] > 1:
        call.couple(produced, bias[-1])
    return (left[0], produced)


def matmul(call: Call) -> Dims:
    """(..., n, k) @ (..., k, m): the inner dimension is read, the outer ones meet; a vector has only the inner one."""
    left, right = call.node.args[:2]
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    return _product(call, left, right)


def baddbmm(call: Call) -> Dims:
    """(b, n, m) + (b, n, k) @ (b, k, m)."""
    product = _product(call, call.arguments["batch1"], call.arguments["batch2"])
    added = call.arguments["self"]
    for back, ids in zip((3, 2, 1), product, strict=True):
        if ids is not None and len(shape_of(added)) >= back and shape_of(added)[-back] > 1:
            call.couple(ids, call.dims_of(added)[-back])
    return product


def _product(call: Call, first: Node, second: Node) -> Dims:
    left, right = call.dims_of(first), call.dims_of(second)
    call.consume(left[-1], right[-2] if len(right) > 1 else right[-1])
    tail = (left[-2:-1] if len(left) > 1 else ()) + (right[-1:] if len(right) > 1 else ())
    if len(right) > 1:
        call.produce(right[-1])
    shape = call.out_shape[: len(call.out_shape) - len(tail)]
    stacked = [call.meeting((first, second), len(shape) - at + 2, size) for at, size in enumerate(shape)]
    return (*stacked, *tail)


def batch_norm(call: Call) -> Dims:
    """Statistics and affine parameters, each (channels,), follow dimension 1."""
    dims = call.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        for ids in call.dims(name):
            call.couple(dims[1], ids)
    return dims


def group_norm(call: Call) -> Dims:
    """Channels that are normalised together go together, so that no statistics change."""
    dims = call.dims("input")
    for name in ("weight", "bias"):
        for ids in call.dims(name):
            call.couple(dims[1], ids)
    if dims[1] is not None:
        for members in dims[1].reshape(call.number("num_groups"), -1):
            call.atoms.join(members[:1].repeat(len(members) - 1), members[1:])
    return dims


def layer_norm(call: Call) -> Dims:
    """The last dimension follows its affine parameters; its statistics are then those of the kept channels."""
    dims = call.dims("input")
    normalised = len(call.arguments["normalized_shape"])
    if normalised > 1:
        for ids in (*dims[-normalised:], *call.dims("weight"), *call.dims("bias")):
            call.freeze(ids, "normalises several dimensions at once")
        return dims
    for name in ("weight", "bias"):
        for ids in call.dims(name):
            call.couple(dims[-1], ids)
    return dims


def prelu(call: Call) -> Dims:
    """One slope for all channels, or one for each."""
    dims = call.dims("self")
    if call.shape("weight")[0] > 1:
        call.couple(dims[1], call.dims("weight")[0])
    return dims


def embedding(call: Call) -> Dims:
    """(entries, width), (...) -> (..., width)."""
    table = call.dims("weight")
    call.freeze(table[0], "looks rows up by their number")
    return (*call.dims("indices"), call.produce(table[1]))


def attention(call: Call) -> Dims:
    """(..., heads, queries, d), (..., heads, keys, d), (..., heads, keys, v) -> (..., heads, queries, v).

    The width d sets the scale, so it stays. Heads meet; where those of keys are fewer, each serves several queries.
    """
    for name in ("query", "key"):
        call.freeze(call.dims(name)[-1], "scales by their number")
    nodes = [node for name in ("query", "key", "value", "attn_mask") if isinstance(node := call.arguments[name], Node)]
    for node in nodes:
        call.freeze(call.dims_of(node)[-2], "holds them as positions")
    shape = call.out_shape[:-2]
    stacked = [call.meeting(nodes, len(shape) - at + 2, size) for at, size in enumerate(shape)]
    if stacked:
        for name in ("key", "value"):
            heads = call.dims(name)[-3]
            if call.shape(name)[-3] != shape[-1]:
                call.couple(None if heads is None else heads.repeat(shape[-1] // len(heads)), stacked[-1])
    return (*stacked, None, call.dims("value")[-1])
