"""Attention with layers of its own for queries, keys and values, in place of torch's, which packs them into one."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitAttention(nn.Module):
    """What an `nn.MultiheadAttention` computes, by four linear layers, so that whole heads can be taken out.

    Same call and same results. Queries, keys and values of shape (rows, length, width), or (length, rows, width) where
    `batch_first` is false, or without rows; the heads are as many as the layers' outputs hold of `head_dim`.
    """

    in_proj_bias = None
    """Encoder layers of torch look at this, and then compute step by step instead of in one fused operator."""

    _qkv_same_embed_dim = False

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim: int = packed.head_dim
        self.batch_first: bool = packed.batch_first
        self.dropout: float = packed.dropout
        separate = (packed.q_proj_weight, packed.k_proj_weight, packed.v_proj_weight)
        weights = packed.in_proj_weight.chunk(3) if packed.in_proj_weight is not None else separate
        biases = packed.in_proj_bias.chunk(3) if packed.in_proj_bias is not None else (None, None, None)
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.out_proj = _linear(packed.out_proj.weight, packed.out_proj.bias)
        self.train(packed.training)

    @property
    def num_heads(self) -> int:
        """How many heads there are now."""
        return self.query.out_features // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of `nn.MultiheadAttention`; `is_causal` is a hint there, beside an `attn_mask` that says the same."""
        alone = query.dim() == 2
        given = [tensor.unsqueeze(0) if alone else tensor for tensor in (query, key, value)]
        if not (alone or self.batch_first):
            given = [tensor.transpose(0, 1) for tensor in given]
        layers = (self.query, self.key, self.value)
        q, k, v = (
            layer(tensor).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer, tensor in zip(layers, given, strict=True)
        )
        mask = _mask(key_padding_mask, attn_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        result = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if alone:
            return result.squeeze(0), None if weights is None else weights.squeeze(0)
        return result if self.batch_first else result.transpose(0, 1), weights


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with a copy of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def _mask(padding: Tensor | None, mask: Tensor | None, queries: Tensor) -> Tensor | None:
    """What is added to the scores, (rows or 1, heads or 1, queries or 1, keys), of masks as torch takes them.

    `padding` (rows, keys) or (keys,), `mask` (queries, keys) or (rows * heads, queries, keys); True is left out.
    """
    parts = []
    if padding is not None:
        parts.append(_added(padding, queries).reshape(-1, 1, 1, padding.shape[-1]))
    if mask is not None:
        added = _added(mask, queries)
        parts.append(added if mask.dim() == 2 else added.reshape(queries.shape[0], -1, *mask.shape[1:]))
    return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, queries: Tensor) -> Tensor:
    """A mask as numbers to add: minus infinity where it is True."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=queries.dtype).masked_fill(mask, -torch.inf)


def with_split_attention(model: nn.Module) -> nn.Module:
    """The network with a `SplitAttention` in place of each `nn.MultiheadAttention`; itself where it has none.

    Those that attend to learned or zero keys beside the given ones, that share a parameter with another module, and a
    network that is nothing else, stay. Stacks of torch's layers get no nested tensors then: they would read the packed
    weights for them. No trained or exported network has them either, only a forward in eval mode that tracks no
    gradients.
    """
    found = _packed(model)
    if not found:
        return model
    result = copy.deepcopy(model)
    made: dict[int, SplitAttention] = {}
    for name, packed in found.items():
        result.set_submodule(name, made.setdefault(id(packed), SplitAttention(packed)))
    for stack in _stacks(result).values():
        stack.use_nested_tensor = False
    return result


def put_back_(smaller: nn.Module, split: nn.Module, model: nn.Module) -> None:
    """Each attention of torch's that lost nothing since it was split is put back as it was in `model`.

    Stacks that hold no others use nested tensors again, if they did.
    """
    copies: dict[int, nn.Module] = {}
    for name, packed in _packed(model).items():
        shapes, before = ([p.shape for p in net.get_submodule(name).parameters()] for net in (smaller, split))
        if shapes == before:
            smaller.set_submodule(name, copies.setdefault(id(packed), copy.deepcopy(packed)))
    stacks = _stacks(model)
    for name, stack in _stacks(smaller).items():
        if not any(isinstance(module, SplitAttention) for module in stack.modules()):
            stack.use_nested_tensor = stacks[name].use_nested_tensor


def place_of(layer: str, network: nn.Module) -> str:
    """A layer as people find it in this network: `attention (query)` where its attention is not split, but torch's."""
    attention, _, own = layer.rpartition(".")
    packed = attention and type(network.get_submodule(attention)) is nn.MultiheadAttention
    return f"{attention} ({own})" if packed and own in ("query", "key", "value") else layer


def _stacks(model: nn.Module) -> dict[str, nn.TransformerEncoder]:
    """Encoders of torch, which compute on nested tensors where they are given a mask of the padding."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.TransformerEncoder)}


def _packed(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """Those that can be split, under every name that they go by."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn
        if all(owners[id(parameter)] == 1 for parameter in module.parameters())
    }
