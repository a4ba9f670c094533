"""What PruneChannels gives is what the network gave with the channels at zero, on rows that it never saw."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.errors import TechniqueError
from paring.techniques import PruneChannels
from tests.structures import job_of, trained


class ScaledByWidth(nn.Module):
    """Attention with one head, scaled by the number of channels that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(self.query(x).shape[-1])
        y: Tensor = self.head((scores.softmax(-1) @ self.value(x)).mean(1))
        return y


def attention(spread: float) -> nn.Module:
    torch.manual_seed(0)
    model = ScaledByWidth().eval()
    for layer in (model.query, model.key):
        nn.init.normal_(layer.weight, std=spread)
        nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize("spread", [0.5, 0.02])
@pytest.mark.parametrize("blank", [0, 2, 8], ids=lambda rows: f"{rows} blank rows")
def test_a_scale_that_follows_the_width_keeps_the_width(spread: float, blank: int) -> None:
    """However little it does, as with small weights, and on whichever rows it can't be seen."""
    model, rows = attention(spread), torch.randn(8, 6, 8)
    rows[:blank] = 0
    job, technique = job_of(model, rows), PruneChannels(round_to=4)
    smaller = technique.apply(model, job)
    told = {layer.layer: layer.reason for layer in technique.coverage(model, smaller, job).layers}
    assert smaller.get_parameter("query.weight").shape == (32, 16)
    assert "outputs kept: without channels of 'query' output 0 is not what it is" in told["query"]
    assert told["value"] == "weight 32x32 -> 16x16, bias 32 -> 16"
    with pytest.raises(TechniqueError, match="'query' can't be pruned: without channels of 'query' output 0 is not"):
        PruneChannels(0.0, round_to=4, ratios=(("query", 0.5),)).apply(model, job)


@pytest.mark.parametrize("mask", [-1e4, -1e9, torch.finfo(torch.float32).min, -math.inf])
def test_what_a_mask_puts_among_the_outputs_hides_no_difference_of_the_others(mask: float) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x).masked_fill(torch.arange(10) >= 8, mask)

    model = Masked().eval()
    smaller = PruneChannels(round_to=4).apply(model, job_of(model, torch.randn(8, 6, 8)))
    assert smaller.get_parameter("attention.query.weight").shape == (32, 16)


def test_a_network_that_needs_many_numbers_of_its_own_rewritten_together_is_pruned() -> None:
    def layer(index: int) -> nn.Module:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear, self.width = nn.Linear(16 + 4 * index, 20 + 4 * index), 20 + 4 * index

            def forward(self, x: Tensor) -> Tensor:
                return torch.relu(self.linear(x)).view(-1, self.width)

        return Own()

    model = trained(nn.Sequential(*(layer(index) for index in range(7)), nn.Linear(44, 3)))
    smaller = PruneChannels(round_to=2).apply(model, job_of(model, torch.randn(8, 16)))
    widths = [smaller.get_submodule(f"{index}.linear").out_features for index in range(7)]
    assert widths == [10, 12, 14, 16, 18, 20, 22]


def test_a_number_that_only_training_reads_is_rewritten() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.width = nn.Parameter(torch.randn(48, 16)), 48

        def forward(self, x: Tensor) -> Tensor:
            y = x @ self.weight.t()
            return y + torch.randn(len(x), self.width) if self.training else y

    model = trained(nn.Sequential(Noisy(), nn.ReLU(), nn.Linear(48, 3)))
    smaller = PruneChannels(0.5).apply(model, job_of(model, torch.randn(8, 16)))
    assert smaller.train()(torch.randn(8, 16)).shape == (8, 3)
    assert smaller.get_submodule("0").width == 24


class Mixed(nn.Module):
    """Tokens that are looked at by attention: those of the first rows are all padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(50, 8), attention(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.attention(self.table(tokens))
        return y


def test_first_rows_that_are_all_padding_prove_nothing() -> None:
    tokens = torch.randint(0, 50, (8, 6))
    tokens[:2] = 0
    model = Mixed().eval()
    smaller = PruneChannels(round_to=4).apply(model, job_of(model, tokens))
    assert smaller.get_parameter("attention.query.weight").shape[0] == 32


class Remembers(nn.Module):
    """A layer of one's own with numbers of its own: of those that equal a size by chance none is one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.max_rows = self.seen = outputs
        self.out_features = outputs

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)[:, : self.max_rows]


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = Remembers(8, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.first(x)).mean(1))
        return y


def test_a_number_that_equals_a_size_by_chance_stays() -> None:
    model = trained(Pooled())
    smaller = PruneChannels().apply(model, job_of(model, torch.randn(4, 20, 8)))
    first = smaller.get_submodule("first")
    assert (first.max_rows, first.seen, first.out_features) == (64, 64, 32)
    kept = [row for row, weights in enumerate(model.first.weight) if (weights == first.weight).all(1).any()]
    zeroed, longer = copy.deepcopy(model), torch.randn(4, 40, 8)
    for row in set(range(64)) - set(kept):
        zeroed.first.weight.detach()[row] = 0
    torch.testing.assert_close(smaller(longer), zeroed(longer))


class Heads(nn.Module):
    """As many heads as each is wide; a number with another name counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.width = 4
        self.parts = nn.ModuleList([nn.Linear(8, 16) for _ in range(3)])
        self.merge = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(*x.shape[:2], self.count, self.width).transpose(1, 2) for part in self.parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.merge(mixed)
        return y


def test_of_two_equal_numbers_the_one_that_counts_is_rewritten() -> None:
    model = trained(Heads())
    smaller = PruneChannels(round_to=1).apply(model, job_of(model, torch.randn(4, 5, 8)))
    assert (smaller.count, smaller.width) == (2, 4)
    assert smaller.get_parameter("merge.weight").shape == (3, 8)


class Insists(nn.Module):
    """It takes single precision only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        y: Tensor = self.head(F.relu(self.first(x)))
        return y


def test_a_network_that_insists_on_its_precision_is_proven_in_it() -> None:
    model = trained(Insists())
    assert PruneChannels().apply(model, job_of(model, torch.randn(4, 8))).get_submodule("first").out_features == 16


class Answers(nn.Module):
    """The attention that follows its width, with its scores given in another way."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.attention, self.answer = attention(0.5), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.attention(x))


ANSWERS: Mapping[str, Callable[[Tensor], Any]] = {
    "labels": lambda scores: scores.argmax(-1),
    "labels that were looked up": lambda scores: torch.arange(10).flip(0)[scores.argmax(-1)],
    "labels as numbers": lambda scores: F.one_hot(scores.argmax(-1), 10).float(),
    "the first two": lambda scores: scores.topk(2).indices,
    "truth values": lambda scores: scores > 0,
    "a mask as numbers": lambda scores: (scores > 100).float() * 255,
    "whole numbers": lambda scores: (scores.sigmoid() * 2).round().to(torch.uint8),
    "complex numbers": lambda scores: torch.complex(torch.zeros_like(scores), scores),
    "a spectrum": lambda scores: torch.fft.rfft(scores).conj(),
    "labels beside what the layer has no part in": lambda scores: (scores * 0, scores.argmax(-1)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_network_shows_in_every_kind_of_output(answer: Callable[[Tensor], Any]) -> None:
    """Labels of a few rows may well be the same, so that what they were decided by is looked at too."""
    model, rows = Answers(answer).eval(), torch.randn(8, 6, 8)
    job = job_of(model, rows)
    smaller = PruneChannels(round_to=4).apply(model, job)
    assert smaller.get_parameter("attention.query.weight").shape == (32, 16)
    assert smaller.get_parameter("attention.value.weight").shape == (16, 16)
    with pytest.raises(TechniqueError, match=r"without channels of 'attention.query' output \d is not what it is with"):
        PruneChannels(0.0, round_to=4, ratios=(("attention.query", 0.5),)).apply(model, job)


def test_integers_that_tell_the_width_keep_it() -> None:
    class Tells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = F.relu(self.first(x))
            return self.head(y), torch.full((len(x),), y.shape[-1])

    model = trained(Tells())
    with pytest.raises(TechniqueError, match="without channels of 'first' output 1 is not what it is"):
        PruneChannels().apply(model, job_of(model, torch.randn(4, 8)))


def test_a_network_that_gives_labels_and_insists_on_its_precision_is_pruned() -> None:
    class Labels(Insists):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(-1)

    model = trained(Labels())
    assert PruneChannels().apply(model, job_of(model, torch.randn(4, 8))).get_submodule("first").out_features == 16


class Auxiliary(nn.Module):
    """A second head, on the first layer, that helps in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head, self.aux = (
            nn.Linear(i, o) for i, o in ((8, 16), (16, 16), (16, 3), (16, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y: Tensor = self.head(F.relu(self.second(x)))
        return y + 0.3 * self.aux(x) if self.training else y


def test_what_feeds_a_part_that_runs_in_training_alone_stays_as_it_is() -> None:
    model = trained(Auxiliary())
    job, technique = job_of(model, torch.randn(8, 8)), PruneChannels(0.5, round_to=4)
    smaller = technique.apply(model, job)
    assert smaller.get_parameter("first.weight").shape == (16, 8)
    assert smaller.get_parameter("second.weight").shape == (8, 16)
    assert smaller.train()(torch.randn(8, 8)).shape == (8, 3)
    told = {layer.layer: layer.reason for layer in technique.coverage(model, smaller, job).layers}
    assert (
        "without channels of 'first' the network does not train any more: in training mode module 'aux' relies"
        in (told["first"])
    )
    with pytest.raises(
        TechniqueError, match="'first' can't be pruned: without channels of 'first' the network does not"
    ):
        PruneChannels(0.0, round_to=4, ratios=(("first", 0.5),)).apply(model, job)


def test_a_network_that_does_not_train_as_it_is_need_not_when_it_is_smaller() -> None:
    class Served(nn.Sequential):
        def train(self, mode: bool = True) -> Served:
            if mode:
                raise RuntimeError("it is served only")
            super().train(mode)
            return self

    model = Served(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    assert PruneChannels().apply(model, job_of(model, torch.randn(4, 8))).get_submodule("0").out_features == 16
