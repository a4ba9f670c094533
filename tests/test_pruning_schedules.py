"""Zeros through trainings: they are held, they grow, they go and come back, and rounds of pruning and training."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import prune

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.weights import matrices
from paring.ops.importance import Evidence
from paring.ops.sparsity import zero_share
from paring.techniques.base import ModuleTechnique
from paring.techniques.fine_tune import FineTune
from paring.techniques.gradual_pruning import GradualPruning, cubic
from paring.techniques.iterative_pruning import IterativePruning
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.techniques.remove_blocks import RemoveBlocks
from paring.types import Batch, Task


@cache
def digits() -> tuple[list[Batch], list[Batch]]:
    data = load_digits()
    images = torch.from_numpy(data.data).float().div(16)
    labels = torch.from_numpy(data.target).long()
    batches: list[Batch] = list(zip(images.split(64), labels.split(64), strict=True))
    return batches[:20], batches[20:]


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
    ).eval()


@cache
def taught() -> nn.Module:
    train, evaluate = digits()
    model = fresh()
    return FineTune(epochs=12, label_weight=1.0, learning_rate=0.1).apply(
        model, Job.of(Task(model, evaluate, train=train))
    )


def job(seed: int = 0) -> Job:
    train, evaluate = digits()
    return Job.of(Task(taught(), evaluate, train=train), seed=seed, threads=1)


def score(model: nn.Module) -> float:
    with torch.no_grad():
        found = [(model(x).argmax(1) == y).float() for x, y in digits()[1]]
    return float(torch.cat(found).mean())


def zeros(model: nn.Module) -> list[float]:
    return [round(zero_share(each.parameter.detach()), 2) for each in matrices(model)]


def overall(model: nn.Module) -> float:
    return zero_share(torch.cat([each.parameter.detach().flatten() for each in matrices(model)]))


def test_a_training_holds_the_zeros_and_mends_the_network() -> None:
    sparse = PruneWeights(0.85).apply(taught(), job())
    again = FineTune(epochs=6).apply(sparse, job())
    for old, new in zip(matrices(sparse), matrices(again), strict=True):
        assert torch.equal(old.parameter == 0, new.parameter == 0)
        assert not torch.equal(old.parameter, new.parameter)
    assert score(again) > score(sparse) + 0.1
    assert score(again) > score(taught()) - 0.05


def test_a_matrix_that_begins_with_nothing_but_zeros_is_trained() -> None:
    model = copy.deepcopy(taught())
    model[5].weight.detach().zero_()
    assert FineTune(epochs=2).apply(model, job()).get_parameter("5.weight").any()


@pytest.mark.parametrize("regrow", [False, True])
def test_zeros_grow_while_the_network_is_trained(regrow: bool) -> None:
    prune = PruneWeights(0.8, scope="global")
    technique = GradualPruning(epochs=8, prune=prune, regrow=regrow)
    grown = technique.apply(taught(), job())
    assert overall(grown) == pytest.approx(0.8, abs=1e-3)
    assert score(grown) > score(taught()) - 0.04
    same = technique.apply(taught(), job())
    assert all(torch.equal(a, b) for a, b in zip(grown.state_dict().values(), same.state_dict().values(), strict=True))


def test_a_criterion_that_looks_at_data_is_asked_less_often() -> None:
    asked: list[str] = []

    def magnitude(evidence: Evidence) -> Tensor:
        asked.append("weights")
        return evidence.weight.abs()

    def inputs(evidence: Evidence) -> Tensor:
        asked.append("inputs")
        return evidence.weight.abs() * evidence.input_norm

    for criterion in (magnitude, inputs):
        technique = GradualPruning(epochs=8, prune=PruneWeights(0.8, layers=("3",), criterion=criterion))
        assert zeros(technique.apply(taught(), job())) == [0.0, 0.8, 0.0]
    assert asked.count("weights") > 90
    assert 15 < asked.count("inputs") <= 21


def test_with_regrowth_other_weights_stay_than_those_that_were_large() -> None:
    prune = PruneWeights(0.8)
    first = {each.name: each.parameter != 0 for each in matrices(prune.apply(taught(), job()))}

    def alike(regrow: bool) -> float:
        grown = GradualPruning(epochs=4, learning_rate=0.2, prune=prune, regrow=regrow).apply(taught(), job())
        kept = [(each.parameter != 0)[first[each.name]] for each in matrices(grown)]
        return float(torch.cat(kept).double().mean())

    assert alike(True) < alike(False) < 1


@pytest.mark.parametrize(
    "technique",
    [
        PruneWeights(0.8),
        PruneWeights(0.8, reconstruct=True),
        GradualPruning(epochs=1, prune=PruneWeights(0.8)),
        GradualPruning(epochs=1, prune=PruneWeights(0.8), regrow=True),
        IterativePruning(epochs=2, rounds=2, prune=PruneWeights(0.8), rewind=True),
    ],
    ids=str,
)
def test_no_zero_is_negative(technique: ModuleTechnique) -> None:
    """On disk a negative zero is a value like any other."""
    for matrix in matrices(technique.apply(taught(), job())):
        weights = matrix.parameter.detach()
        assert not (weights[weights == 0].signbit()).any()


def test_a_training_that_is_cut_short_ends_with_all_zeros() -> None:
    train, evaluate = digits()
    technique = GradualPruning(epochs=1, prune=PruneWeights(0.8), until=1.0)
    short = Job.of(Task(taught(), evaluate, train=train[:2]), threads=1)
    assert zeros(technique.apply(taught(), short)) == [0.8, 0.8, 0.8]


def test_zeros_of_each_output_grow_and_come_in_rounds_too() -> None:
    prune = PruneWeights(0.8, scope="output")
    for technique in (GradualPruning(epochs=2, prune=prune), IterativePruning(epochs=2, rounds=2, prune=prune)):
        for each in matrices(technique.apply(taught(), job())):
            counts = (each.rows(each.parameter) == 0).sum(1)
            assert counts.unique().tolist() == [int(0.8 * each.shape[1])], technique


def test_patterns_grow_too() -> None:
    technique = GradualPruning(epochs=2, prune=PruneWeights(pattern="2:8", layers=("3",)))
    assert zeros(technique.apply(taught(), job())) == [0.0, 0.75, 0.0]
    steps = [technique.prune.at(share) for share in (0.0, 0.1, 0.5, 1.0)]
    assert [step and step.pattern for step in steps] == [None, None, "5:8", "2:8"]


def test_zeros_of_vectors_are_held_too() -> None:
    prune = PruneWeights(0.5, vectors=True, layers=("1", "3"))
    for technique in (
        FineTune(epochs=1),
        GradualPruning(epochs=1, prune=prune),
        IterativePruning(epochs=2, rounds=2, prune=prune, rewind=True),
    ):
        trained = technique.apply(prune.apply(taught(), job()), job())
        assert zero_share(trained.get_parameter("3.bias")) == 0.5, technique
        assert zero_share(trained.get_parameter("1.weight")) == 0.5, technique


def test_a_bias_below_the_threshold_goes_as_a_whole_while_one_that_begins_from_nothing_is_trained() -> None:
    network = copy.deepcopy(taught())
    network.get_parameter("3.bias").detach().mul_(1e-3)
    network.get_parameter("0.bias").detach().zero_()
    prune = PruneWeights(threshold=0.1, vectors=True, layers=("3",))
    grown = GradualPruning(epochs=2, prune=prune).apply(network, job())
    assert zero_share(grown.get_parameter("3.bias")) == 1
    assert zero_share(grown.get_parameter("0.bias")) == 0


def test_zeros_that_are_there_stay_while_a_pattern_is_still_to_grow() -> None:
    sparse = PruneWeights(0.6, layers=("0",)).apply(taught(), job())
    grown = GradualPruning(epochs=2, prune=PruneWeights(pattern="2:4", layers=("3",))).apply(sparse, job())
    assert zeros(grown) == [0.6, 0.5, 0.0]


def test_a_pattern_comes_in_as_many_rounds_as_it_has_steps() -> None:
    said: list[str] = []
    told = Job(job().task, job().calibrate, threads=1, say=said.append)
    technique = IterativePruning(epochs=4, rounds=4, prune=PruneWeights(pattern="2:4"))
    assert zeros(technique.apply(taught(), told)) == [0.5, 0.5, 0.5]
    assert [line for line in said if line.startswith("round")] == [
        "round 1 of 2: PruneWeights(pattern=3:4)",
        "round 2 of 2: PruneWeights(pattern=2:4)",
    ]


@pytest.mark.parametrize(
    "technique",
    [PruneWeights(), PruneChannels(), RemoveBlocks(), FineTune(epochs=1), GradualPruning(epochs=1)],
    ids=str,
)
def test_weights_that_can_not_be_copied_are_refused(technique: ModuleTechnique) -> None:
    data = digits()[0][:1]
    masked, stored = fresh(), fresh()
    prune.l1_unstructured(masked[0], "weight", 0.5)
    with pytest.raises(TechniqueError, match=r"'0' computes its 'weight' at each call, .* by torch.nn.utils.prune"):
        technique.apply(masked, Job.of(Task(masked, data, train=data)))
    stored[0].weight = nn.Parameter(stored[0].weight.detach().to_sparse())
    with pytest.raises(TechniqueError, match=r"'0.weight' is stored as torch.sparse_coo: make it dense first"):
        technique.apply(stored, Job.of(Task(stored, data, train=data)))


def test_the_cubic_schedule() -> None:
    assert [cubic(share) for share in (0.0, 0.5, 1.0, 1.5)] == [0.0, 0.875, 1.0, 1.0]


def test_rounds_of_pruning_and_training() -> None:
    said: list[str] = []
    base = job()
    told = Job(base.task, base.calibrate, threads=1, say=said.append)
    model = IterativePruning(epochs=6, rounds=3, prune=PruneWeights(0.75)).apply(taught(), told)
    assert zeros(model) == [0.75, 0.75, 0.75]
    assert score(model) > score(taught()) - 0.04
    assert [line for line in said if line.startswith("round")] == [
        "round 1 of 3: PruneWeights(sparsity=0.25)",
        "round 2 of 3: PruneWeights(sparsity=0.5)",
        "round 3 of 3: PruneWeights(sparsity=0.75)",
    ]


def test_channels_go_in_rounds_too() -> None:
    technique = IterativePruning(epochs=4, rounds=2, prune=PruneChannels(0.75, round_to=1))
    model = technique.apply(taught(), job())
    assert [tuple(each.parameter.shape) for each in matrices(model)] == [(12, 64), (8, 12), (10, 8)]
    assert score(model) > 0.8


def test_rewinding_takes_what_stays_back_to_where_it_began() -> None:
    start = fresh()
    still = IterativePruning(epochs=3, rounds=3, rewind=True, learning_rate=1e-9, prune=PruneWeights(0.6))
    model = still.apply(start, job())
    for old, new in zip(matrices(start), matrices(model), strict=True):
        kept = new.parameter != 0
        torch.testing.assert_close(new.parameter[kept], old.parameter[kept], atol=1e-5, rtol=0)
    assert zeros(model) == [0.6, 0.6, 0.6]


def zeros_of(model: nn.Module) -> Tensor:
    return torch.cat([each.parameter.detach().flatten() == 0 for each in matrices(model)])


def test_a_lottery_ticket_is_drawn_from_weights_that_were_trained() -> None:
    """Frankle and Carbin 2019: train, take what is small by then, go back to the beginning, train what is left."""
    start, prune = fresh(), PruneWeights(0.8, scope="global")
    ticket = IterativePruning(epochs=8, rounds=1, rewind=True, learning_rate=0.1, prune=prune).apply(start, job())
    trained = FineTune(epochs=4, learning_rate=0.1).apply(start, job())
    gone, after, before = map(zeros_of, (ticket, prune.apply(trained, job()), prune.apply(start, job())))
    assert torch.equal(gone, after)
    assert not torch.equal(gone, before)
    assert score(ticket) > 0.8


@pytest.mark.parametrize(
    ("epochs", "rewind", "each"), [(7, True, [1, 2, 2, 2]), (2, True, [1, 1]), (7, False, [2, 2, 3])]
)
def test_epochs_are_shared_by_the_trainings(
    epochs: int, rewind: bool, each: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    apply = FineTune.apply
    monkeypatch.setattr(FineTune, "apply", lambda self, *given: seen.append(self.epochs) or apply(self, *given))
    IterativePruning(epochs=epochs, rounds=3, rewind=rewind, prune=PruneWeights(0.6)).apply(fresh(), job())
    assert seen == each
    assert sum(seen) == epochs


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("prune", [PruneWeights(0.5), PruneWeights(0.9, layers=("5",)), PruneWeights(pattern="2:4")])
def test_zeros_from_before_stay_while_others_grow(prune: PruneWeights, regrow: bool) -> None:
    sparse = PruneWeights(0.7, scope="global").apply(taught(), job())
    grown = GradualPruning(epochs=2, learning_rate=0.1, prune=prune, regrow=regrow).apply(sparse, job())
    for old, new in zip(matrices(sparse), matrices(grown), strict=True):
        assert not new.parameter[old.parameter == 0].any()
        assert new.parameter.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradualPruning(until=0.0), "until=0.0 must be above 0 and at most 1"),
        (lambda: GradualPruning(prune=PruneWeights(reconstruct=True)), "leave reconstruct out"),
        (lambda: GradualPruning(epochs=0), "epochs=0 must be 1 or more"),
        (lambda: IterativePruning(rounds=0), "rounds=0 must be 1 or more"),
        (
            lambda: IterativePruning(prune=PruneChannels(), rewind=True),
            "rewind=True needs weights that keep their places",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(TechniqueError, match=message):
        make()


class Recurrent(nn.Module):
    """With the biases that people begin with: one for what is remembered, zero for all else."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.out = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)
        with torch.no_grad():
            self.memory.bias_ih_l0.zero_()[8:16] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.memory(x)[0][:, -1])  # type: ignore[no-any-return]


def test_biases_that_begin_with_zeros_are_trained_and_those_that_were_pruned_are_not() -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(32, 5, 4)
    rows = [(x, (x[:, 0, 0] > 0).long())]
    job = Job.of(Task(model, evaluate=rows, train=rows), threads=1)
    trained = FineTune(epochs=2, learning_rate=0.1, label_weight=1.0).apply(model, job)
    assert (trained.get_parameter("memory.bias_ih_l0") != 0).all()
    pruned = PruneWeights(0.5, layers=("out",), vectors=True).apply(model, job)
    held = FineTune(epochs=2, learning_rate=0.1, label_weight=1.0).apply(pruned, job)
    for name in ("out.weight", "out.bias"):
        assert torch.equal(held.get_parameter(name) == 0, pruned.get_parameter(name) == 0)
        assert (held.get_parameter(name) == 0).any()
