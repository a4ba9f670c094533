"""Layers whose output is cut into equal parts, by a size that the class keeps as a number, lose channels of each."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.errors import TechniqueError
from paring.techniques import PruneChannels
from tests.structures import job_of, trained

WIDTH, HEADS, LENGTH = 32, 4, 5
TOKENS = torch.randint(0, 20, (4, LENGTH), generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """As GPTs are written; the width of a head is a number of its own, or a share of what comes in (`shared`)."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.n_head, self.n_embd, self.width, self.shared = HEADS, WIDTH, WIDTH // HEADS, shared

    def forward(self, x: Tensor) -> Tensor:
        rows, length, channels = x.size()
        width = channels // self.n_head if self.shared else self.width
        q, k, v = (
            part.view(rows, length, self.n_head, width).transpose(1, 2)
            for part in self.c_attn(x).split(self.n_embd, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return cast(Tensor, self.c_proj(y.reshape(rows, length, channels if self.shared else self.n_embd)))


class Gpt(nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.embed, self.attention = nn.Embedding(20, WIDTH), Attention(shared)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 20, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x)
        return cast(Tensor, self.head(self.norm(x + self.down(self.up(x).relu()))))


def test_heads_go_alone_where_their_width_is_a_number_of_its_own() -> None:
    model = trained(Gpt(shared=False))
    technique = PruneChannels(0.0, ratios=(("attention.c_attn", 0.5),))
    attention = cast(Attention, technique.apply(model, job_of(model, TOKENS)).get_submodule("attention"))
    assert (attention.n_head, attention.n_embd, attention.width) == (2, 16, 8)
    assert attention.c_attn.weight.shape == (48, 32)
    assert attention.c_proj.weight.shape == (32, 16)


def test_heads_go_with_as_large_a_share_of_the_network_s_width_where_they_are_cut_from_it() -> None:
    model = trained(Gpt(shared=True))
    job = job_of(model, TOKENS)
    smaller = PruneChannels(0.5).apply(model, job)
    attention = cast(Attention, smaller.get_submodule("attention"))
    assert (attention.n_head, attention.n_embd) == (2, 16)
    assert attention.c_attn.weight.shape == (48, 16)
    assert smaller.train()(TOKENS).shape == (4, LENGTH, 20)
    with pytest.raises(TechniqueError, match=r"'attention\.c_attn' can't be pruned: module 'attention' relies on"):
        PruneChannels(0.0, ratios=(("attention.c_attn", 0.5),)).apply(model, job)


class Fixed(nn.Module):
    """Cuts at a number that stands in its code alone."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Linear(6, 32), nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.narrow(sum(self.wide(x).split(8, dim=-1))).relu()))


def test_what_is_cut_at_a_fixed_number_stays_and_the_rest_is_pruned() -> None:
    model, inputs = trained(Fixed()), torch.randn(8, 6)
    technique, job = PruneChannels(round_to=4), job_of(model, inputs)
    smaller = technique.apply(model, job)
    told = {layer.layer: layer.reason for layer in technique.coverage(model, smaller, job).layers}
    assert smaller.get_parameter("narrow.weight").shape == (16, 8)
    assert told["wide"].startswith("module 'narrow' relies on the original number of channels")
