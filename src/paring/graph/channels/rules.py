"""Which rule follows which operator. What is not listed freezes the channels that touch it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from paring.graph.channels import layers, shapes
from paring.graph.channels.calls import Call, Value, fixed, is_tensor

Rule = Callable[[Call], Value]


def _table() -> Mapping[str, Rule]:
    """Operator name, without namespace and in-place underscore, to its rule."""
    named: dict[Rule, str] = {
        layers.convolution: "conv1d conv2d conv3d",
        layers.transposed_convolution: "conv_transpose1d conv_transpose2d conv_transpose3d",
        layers.linear: "linear",
        layers.addmm: "addmm",
        layers.matmul: "matmul mm bmm",
        layers.baddbmm: "baddbmm",
        layers.batch_norm: "batch_norm instance_norm",
        layers.group_norm: "group_norm",
        layers.layer_norm: "layer_norm rms_norm",
        layers.prelu: "prelu",
        layers.embedding: "embedding",
        layers.attention: "scaled_dot_product_attention",
        shapes.same: "contiguous clone dropout feature_dropout alpha_dropout feature_alpha_dropout to _to_copy detach"
        " lift_fresh_copy alias type_as zeros_like ones_like full_like empty_like float half bfloat16 native_dropout",
        shapes.elementwise: "where masked_fill clamp hardtanh leaky_relu celu selu rrelu gelu silu mish softplus"
        " hardswish hardsigmoid relu6 log_sigmoid softshrink hardshrink threshold rsub",
        shapes.spatial: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"
        " adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
        " max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d"
        " upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d lp_pool2d",
        shapes.reduction: "mean sum amax amin max min var std prod logsumexp any all argmax argmin linalg_vector_norm",
        shapes.along: "softmax log_softmax cumsum roll flip sort",
        shapes.reshape: "view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as reshape_as",
        shapes.permute: "permute transpose t numpy_T swapaxes swapdims",
        shapes.concatenate: "cat concat concatenate",
        shapes.stack: "stack",
        shapes.cut: "slice narrow pad constant_pad_nd repeat expand expand_as",
        shapes.select: "select",
        shapes.index: "index",
        shapes.pieces: "split split_with_sizes chunk unbind",
        shapes.gated: "glu",
    }
    return MappingProxyType({name: rule for rule, names in named.items() for name in names.split()})


RULES = _table()


def followed(call: Call) -> Value:
    """The dimensions of what an operator gives; an unknown operator freezes what it takes."""
    if call.node.meta.get("val") is None:
        return ()  # It gives nothing, as assertions do.
    rule = RULES.get(call.operator)
    target = call.node.target
    if rule is None and isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags:
        rule = shapes.elementwise if is_tensor(call.node) else None
    if rule is not None and call.tensors() and _is_plain(call):
        return rule(call)
    return unknown(call)


def _is_plain(call: Call) -> bool:
    """Whether every tensor argument is one tensor: lists from other operators are taken apart before they get here.

    And whether none is empty, as a cache is before the first token: nothing is seen to go anywhere then.
    """
    return all(is_tensor(node) and node.meta["val"].numel() for node in call.node.all_input_nodes)


def unknown(call: Call) -> Value:
    """An operator without a rule: all that it takes must stay."""
    for node in call.tensors():
        for ids in call.dims_of(node):
            call.freeze(ids, "is an operator whose channels are not followed")
    outputs = call.node.meta.get("val")
    if isinstance(outputs, tuple | list):
        return tuple(fixed(value.dim() if isinstance(value, torch.Tensor) else 0) for value in outputs)
    return fixed(outputs.dim() if isinstance(outputs, torch.Tensor) else 0)
