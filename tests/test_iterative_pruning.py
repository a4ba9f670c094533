"""Rounds of pruning and training come to what the pruning alone would leave, step by step, and say what they did."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.weights import matrices
from paring.ops.sparsity import zero_share
from paring.techniques.fine_tune import FineTune
from paring.techniques.gradual_pruning import GradualPruning
from paring.techniques.iterative_pruning import IterativePruning
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.tune.racer import Racer
from paring.tune.trainers import Trainer
from paring.types import Task


class Attentive(nn.Module):
    """Its attention can't have fewer heads, which shows only when that is tried."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 4, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.last = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None] + self.attend(x[:, None], x[:, None], x[:, None], need_weights=False)[0]
        return self.last(self.inner(x)[:, 0])


def convolutional(width: int, hidden: int) -> nn.Module:
    depthwise = [nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.BatchNorm2d(hidden), nn.ReLU()]
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.ReLU(),
        *(nn.Conv2d(width, hidden, 1), *depthwise, nn.Conv2d(hidden, width, 1), nn.Flatten(), nn.Linear(4 * width, 3)),
    )


def plain(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def job(model: nn.Module, *shape: int) -> Job:
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, *shape, generator=generator), torch.arange(8) % 3)]
    return Job.of(Task(model.eval(), batches, train=batches), threads=1)


def sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def said_by(technique: IterativePruning, model: nn.Module, given: Job) -> tuple[nn.Module, list[str]]:
    said: list[str] = []
    result = technique.apply(model, replace(given, say=said.append))
    return result, [line for line in said if line.startswith("round")]


@pytest.mark.parametrize("seed", range(10))
def test_the_rounds_end_with_the_sizes_that_the_pruning_alone_gives(seed: int) -> None:
    chance = random.Random(seed)
    make = chance.choice([plain, convolutional, Attentive])
    torch.manual_seed(seed)
    model = make(chance.randrange(2, 20), chance.randrange(2, 30))
    named = {plain: "2", convolutional: "2", Attentive: "inner.0"}[make]
    own = ((named, chance.choice([0.0, 0.3, 0.9])),) if chance.random() < 0.5 else ()
    prune = PruneChannels(chance.uniform(0.2, 0.95), round_to=chance.choice([1, 1, 2, 3, 4, 8]), ratios=own)
    given = job(model, *((1, 4, 4) if make is convolutional else (8,)))
    rounds = chance.randrange(2, 6)
    once = prune.apply(model, given)
    technique = IterativePruning(epochs=rounds, rounds=rounds, prune=prune)
    many = technique.apply(model, given)
    assert sizes(many) == sizes(once), f"{make.__name__}, {rounds} rounds of {prune}"
    assert sizes(technique.shrunk(model, given)) == sizes(once)


@pytest.mark.parametrize(
    "prune",
    [
        PruneWeights(0.73),
        PruneWeights(0.8, scope="global"),
        PruneWeights(0.8, scope="global", sparsities=(("0", 0.3),)),
        PruneWeights(0.5, pattern="1x4"),
        PruneWeights(pattern="1:4"),
        PruneWeights(threshold=0.1, layers=("2",)),
        PruneWeights(0.6, criterion="wanda", reconstruct=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_the_rounds_end_with_the_zeros_that_the_pruning_alone_gives(prune: PruneWeights, rounds: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4))
    given = job(model, 8)
    # Hardly a training: what is below a threshold, or lowest of all layers, is the same in the end.
    still = IterativePruning(epochs=rounds, rounds=rounds, prune=prune, learning_rate=1e-9)
    once, many = prune.apply(model, given), still.apply(model, given)
    if prune.scope == "global":
        counts = [sum(int((each.parameter == 0).sum()) for each in matrices(one)) for one in (once, many)]
        assert counts[0] == counts[1]
    else:
        shares = [[zero_share(each.parameter.detach()) for each in matrices(one)] for one in (once, many)]
        assert shares[0] == shares[1]


def test_the_same_number_of_channels_goes_in_every_round_whatever_they_are_rounded_to() -> None:
    torch.manual_seed(0)
    model = plain(16, 32)
    technique = IterativePruning(epochs=4, rounds=4, prune=PruneChannels(0.5, round_to=8))
    result, said = said_by(technique, model, job(model, 8))
    assert sizes(result) == {
        "0.weight": (8, 8),
        "0.bias": (8,),
        "2.weight": (16, 8),
        "2.bias": (16,),
        "4.weight": (3, 16),
        "4.bias": (3,),
    }
    assert [re.findall(r"\d+ of 48", line) for line in said] == [[f"{stay} of 48"] for stay in (42, 36, 30, 24)]


def test_there_are_no_more_rounds_than_channels_that_go() -> None:
    torch.manual_seed(0)
    model = plain(4, 4)
    technique = IterativePruning(epochs=8, rounds=8, prune=PruneChannels(0.5, round_to=1))
    result, said = said_by(technique, model, job(model, 8))
    assert [line.partition(":")[0] for line in said] == ["round 1 of 2", "round 2 of 2"]
    assert sizes(result)["2.weight"] == (2, 2)


def test_where_no_channels_can_go_nothing_is_trained_and_the_coverage_says_so() -> None:
    torch.manual_seed(0)
    model = plain(8, 8)
    given = job(model, 8)
    technique = IterativePruning(epochs=2, rounds=2, prune=PruneChannels(0.5, round_to=8))
    result, said = said_by(technique, model, given)
    assert not said
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.parameters(), strict=True))
    told = technique.coverage(model, result, given)
    assert not told.changed
    assert told.layers[0].reason == "ratio 0.5 in multiples of 8 keeps all 8 channels"


def test_the_coverage_tells_what_was_pruned_and_not_that_it_was_trained() -> None:
    torch.manual_seed(0)
    model = plain(8, 8)
    given = job(model, 8)
    weights = PruneWeights(0.5, layers=("2",))
    for technique in (
        GradualPruning(epochs=1, prune=weights),
        GradualPruning(epochs=1, prune=weights, regrow=True),
        IterativePruning(epochs=1, rounds=1, prune=weights),
    ):
        told = technique.coverage(model, technique.apply(model, given), given)
        assert told.technique == str(technique)
        assert [(layer.layer, layer.changed, layer.reason) for layer in told.layers] == [
            ("0", False, "was not asked for"),
            ("2", True, "50.0% of the weights are zero"),
            ("4", False, "was not asked for"),
        ]
    channels = IterativePruning(epochs=1, rounds=1, prune=PruneChannels(0.5, round_to=4))
    told = channels.coverage(model, channels.apply(model, given), given)
    assert told.layers[0].reason == "weight 8x8 -> 4x8, bias 8 -> 4"


@pytest.mark.parametrize("kind", [GradualPruning, IterativePruning])
def test_a_schedule_that_takes_nothing_away_has_changed_nothing(kind: type[GradualPruning | IterativePruning]) -> None:
    torch.manual_seed(0)
    model = plain(8, 8)
    given = job(model, 8)
    sparse = PruneWeights(0.8).apply(model, given)
    for before, prune in ((model, PruneWeights(0.0)), (sparse, PruneWeights(0.5))):
        technique = kind(epochs=1, prune=prune)
        after = technique.apply(before, given)
        assert FineTune(epochs=1).coverage(before, after, given).changed
        assert not technique.coverage(before, after, given).changed


@pytest.mark.parametrize("prune", [PruneChannels(0.5, round_to=1), PruneWeights(0.5)], ids=str)
def test_what_goes_on_from_a_schedule_takes_nothing_more_away(prune: PruneChannels | PruneWeights) -> None:
    torch.manual_seed(0)
    model = plain(8, 8)
    given = job(model, 8)
    technique = IterativePruning(epochs=1, rounds=1, prune=prune, learning_rate=0.1)
    once = technique.apply(model, given)
    racer = Racer((technique,), Trainer(technique), cost=1.0, drop=0.0, deviation=0.0, epochs=1, kept_epochs=1)
    assert racer.training(3) == FineTune(epochs=3, learning_rate=0.1)
    again = racer.training(3).apply(once, given)
    assert sizes(again) == sizes(once)
    assert all(torch.equal(a == 0, b == 0) for a, b in zip(once.parameters(), again.parameters(), strict=True))
    assert replace(racer, kept_epochs=0).training(3) == replace(technique, epochs=3)


def test_weights_that_are_solved_for_and_then_rewound_are_refused() -> None:
    with pytest.raises(TechniqueError, match=r"rewind=True gives up the weights that .*reconstruct=True.* solves for"):
        IterativePruning(prune=PruneWeights(0.8, reconstruct=True), rewind=True)
    IterativePruning(prune=PruneWeights(0.8, reconstruct=True))


@pytest.mark.parametrize(("epochs", "rounds", "trained"), [(1, 4, [1]), (5, 4, [1, 1, 1, 2]), (8, 4, [2, 2, 2, 2])])
def test_all_rounds_together_take_the_epochs_that_were_given(
    epochs: int, rounds: int, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain(8, 16)
    seen: list[int] = []

    def apply(self: FineTune, model: nn.Module, job: Job) -> nn.Module:
        seen.append(self.epochs)
        return model

    monkeypatch.setattr(FineTune, "apply", apply)
    IterativePruning(epochs=epochs, rounds=rounds, prune=PruneWeights(0.8)).apply(model, job(model, 4, 8))
    assert seen == trained
