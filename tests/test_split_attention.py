"""Attention as torch packs it loses whole heads, and stays torch's where it loses none."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from paring.errors import TechniqueError
from paring.graph.attention import SplitAttention
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques import PruneChannels
from tests.structures import job_of, trained

ROWS, LENGTH, WIDTH, HEADS = 3, 5, 16, 4


def masked(shape: tuple[int, ...]) -> Tensor:
    """The upper triangle: what comes later is left out."""
    return torch.ones(shape, dtype=torch.bool).triu(1)


CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"batch_first": True}, {}),
    ({}, {"need_weights": False}),
    ({"bias": False, "batch_first": True}, {"average_attn_weights": False}),
    ({"batch_first": True}, {"attn_mask": masked((LENGTH, LENGTH)), "is_causal": True, "need_weights": False}),
    ({"batch_first": True}, {"attn_mask": torch.randn(ROWS * HEADS, LENGTH, LENGTH)}),
    ({"batch_first": True}, {"key_padding_mask": torch.arange(LENGTH).expand(ROWS, -1) > 2}),
    (
        {"batch_first": True},
        {"key_padding_mask": torch.arange(LENGTH).expand(ROWS, -1) > 3, "attn_mask": masked((LENGTH, LENGTH))},
    ),
]


@pytest.mark.parametrize(("made", "called"), CALLS)
def test_it_gives_what_the_one_of_torch_gives(made: dict[str, Any], called: dict[str, Any]) -> None:
    packed = trained(nn.MultiheadAttention(WIDTH, HEADS, **made))
    assert isinstance(packed, nn.MultiheadAttention)
    shape = (ROWS, LENGTH, WIDTH) if made.get("batch_first") else (LENGTH, ROWS, WIDTH)
    given = [torch.randn(shape) for _ in range(3)]
    for found, expected in zip(SplitAttention(packed)(*given, **called), packed(*given, **called), strict=True):
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, expected)


def test_keys_of_another_width_and_inputs_without_rows() -> None:
    packed = trained(nn.MultiheadAttention(WIDTH, HEADS, kdim=6, vdim=7))
    assert isinstance(packed, nn.MultiheadAttention)
    given = [torch.randn(LENGTH, width) for width in (WIDTH, 6, 7)]
    for found, expected in zip(SplitAttention(packed)(*given), packed(*given), strict=True):
        torch.testing.assert_close(found, expected)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return cast(Tensor, self.head((x + self.attention(x, x, x)[0]).mean(1)))


def encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, norm_first=norm_first)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(6, WIDTH), stack, nn.Linear(WIDTH, 3))


@pytest.mark.parametrize("made", [Attends, lambda: encoder(False), lambda: encoder(True)])
def test_heads_and_widths_go_and_the_export_gives_the_same(made: Any) -> None:
    model, inputs = trained(made()), torch.randn(ROWS, LENGTH, 6)
    technique, job = PruneChannels(round_to=4), job_of(model, inputs)
    smaller = technique.apply(model, job)
    layers = [module for module in smaller.modules() if isinstance(module, SplitAttention)]
    assert layers
    for layer in layers:
        assert (layer.num_heads, layer.head_dim, layer.query.in_features) == (2, 4, 8)
    told = technique.coverage(model, smaller, job).layers
    assert sum(change.reason == "weight 16x16 -> 8x8, bias 16 -> 8" for change in told) == 4 * len(layers)
    graph = export_onnx(export_program(smaller, inputs), signature_of(smaller, inputs))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    np.testing.assert_allclose(found, smaller(inputs).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_heads_of_one_layer_by_name_and_the_other_layer_stays_as_it_was() -> None:
    model, inputs = trained(encoder(True)), torch.randn(ROWS, LENGTH, 6)
    technique = PruneChannels(0.0, round_to=4, ratios=(("1.layers.1.self_attn.query", 0.5),))
    job = job_of(model, inputs)
    technique.check_fits(model, job.task)
    smaller = technique.apply(model, job)
    first, second = (smaller.get_submodule(f"1.layers.{layer}.self_attn") for layer in (0, 1))
    assert type(first) is nn.MultiheadAttention
    assert torch.equal(first.in_proj_weight, model.get_submodule("1.layers.0.self_attn").in_proj_weight)
    assert isinstance(second, SplitAttention)
    assert second.num_heads == 2
    layers = {change.layer: change.changed for change in technique.coverage(model, smaller, job).layers}
    assert not layers["1.layers.0.self_attn (query)"]
    assert layers["1.layers.1.self_attn.query"]
    assert {name.partition(" (")[0] for name in layers} <= dict(smaller.named_modules()).keys()


class Padded(nn.Module):
    """Tokens behind torch's encoder, which takes what is 0 for padding and computes on nested tensors for it."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.embed, self.encoder, self.head = nn.Embedding(9, WIDTH), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)
        self.pooled = pooled

    def forward(self, tokens: Tensor) -> Tensor:
        kept = tokens != 0
        x = self.encoder(self.embed(tokens), src_key_padding_mask=~kept)
        return cast(Tensor, self.head((x * kept.unsqueeze(-1)).sum(1) if self.pooled else x.mean(1)))


def padded_tokens() -> Tensor:
    """Rows of different lengths, behind which stand zeros."""
    tokens = torch.randint(1, 9, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return tokens * (torch.arange(LENGTH) < torch.tensor([[3], [5], [2]]))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_heads_go_where_the_stack_is_told_of_padding_and_the_answers_are_those_without_them() -> None:
    model, tokens = trained(Padded()), padded_tokens()
    technique = PruneChannels(0.0, ratios=(("encoder.layers.0.self_attn.query", 0.5),))
    smaller = technique.apply(model, job_of(model, tokens))
    first, second = (cast(nn.Module, smaller.get_submodule(f"encoder.layers.{layer}.self_attn")) for layer in (0, 1))
    assert isinstance(first, SplitAttention)
    assert first.num_heads == 2
    assert type(second) is nn.MultiheadAttention
    packed = cast(nn.MultiheadAttention, model.get_submodule("encoder.layers.0.self_attn"))
    rows = packed.in_proj_weight.unflatten(0, (3, HEADS, -1))[0]
    gone = [head for head in range(HEADS) if not any(torch.equal(rows[head], kept) for kept in _heads(first.query))]
    with torch.no_grad():
        packed.out_proj.weight.unflatten(1, (HEADS, -1))[:, gone] = 0.0
        torch.testing.assert_close(smaller(tokens), model(tokens))


def _heads(layer: nn.Linear) -> Tensor:
    return layer.weight.unflatten(0, (-1, WIDTH // HEADS))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_stack_that_lost_no_heads_computes_on_nested_tensors_as_before() -> None:
    model, tokens = trained(Padded()), padded_tokens()
    smaller = PruneChannels(0.0, ratios=(("encoder.layers.0.linear1", 0.5),)).apply(model, job_of(model, tokens))
    stack = cast(nn.TransformerEncoder, smaller.get_submodule("encoder"))
    assert stack.layers[0].linear1.out_features == 16
    assert stack.use_nested_tensor
    assert not any(isinstance(module, SplitAttention) for module in smaller.modules())
    with torch.no_grad():
        assert (stack(torch.randn(2, 3, WIDTH), src_key_padding_mask=masked((2, 3)))[0, 1:] == 0).all()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_where_the_answers_rest_on_the_zeros_that_nested_tensors_leave_as_padding_heads_stay() -> None:
    model, tokens = trained(Padded(pooled=False)), padded_tokens()
    with pytest.raises(TechniqueError):
        PruneChannels().apply(model, job_of(model, tokens))


class Peeks(nn.Module):
    """Looks into the attention of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.up, self.down = Attends(), nn.Linear(3, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.body.attention.in_proj_weight[0, 0]
        return cast(Tensor, self.down(self.up(self.body(x)).relu()) * scale)


def test_where_code_looks_into_it_it_stays_and_the_rest_is_pruned() -> None:
    model = trained(Peeks())
    smaller = PruneChannels().apply(model, job_of(model, torch.randn(ROWS, LENGTH, 6)))
    assert type(smaller.get_submodule("body.attention")) is nn.MultiheadAttention
    assert smaller.get_submodule("up").out_features == 8


def test_attentions_that_share_their_weights_stay_and_go_on_sharing_them() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Attends(), Attends()
            self.second.attention.in_proj_weight = self.first.attention.in_proj_weight
            self.head = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 3))

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.head(self.first(x) + self.second(x)))

    model, inputs = trained(Sharing()), torch.randn(ROWS, LENGTH, 6)
    smaller = PruneChannels(round_to=4).apply(model, job_of(model, inputs))
    first, second = (smaller.get_submodule(f"{name}.attention") for name in ("first", "second"))
    assert first.in_proj_weight is second.in_proj_weight
    assert smaller.get_submodule("head.0").out_features == 16


def test_what_was_frozen_stays_frozen() -> None:
    packed = nn.MultiheadAttention(WIDTH, HEADS)
    packed.in_proj_weight.requires_grad_(False)
    split = SplitAttention(packed)
    assert not split.query.weight.requires_grad
    assert split.query.bias.requires_grad
    assert split.out_proj.weight.requires_grad
