"""Operators with two results, empty tensors and constants: what they touch is followed, or kept with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.techniques import PruneChannels, RegularisedTraining
from paring.techniques.base import ModuleTechnique
from paring.types import Task
from tests.structures import job_of, trained

GROUP_LASSO = RegularisedTraining(penalty="group_lasso", epochs=1)


class Sorted(nn.Module):
    """The largest few of each channel, as networks of points take them; `frexp` gives two results as well."""

    def __init__(self, *, halves: bool = False) -> None:
        super().__init__()
        self.points, self.all, self.out = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 16, 1), nn.Linear(64, 4)
        self.halves = halves

    def forward(self, points: Tensor) -> Tensor:
        found = self.all(torch.relu(self.points(points)))
        if self.halves:
            found = torch.frexp(found)[0]
        return self.out(found.sort(dim=2, descending=True)[0][:, :, :4].flatten(1))  # type: ignore[no-any-return]


def test_sorting_along_another_dimension_follows_channels() -> None:
    model, points = trained(Sorted()), torch.randn(6, 3, 10)
    smaller = PruneChannels(round_to=4).apply(model, job_of(model, points))
    assert smaller.get_submodule("points").out_channels == smaller.get_submodule("all").out_channels == 8


def test_an_operator_with_two_results_that_has_no_rule_keeps_its_channels_with_the_reason() -> None:
    model, points = trained(Sorted(halves=True)), torch.randn(6, 3, 10)
    technique, job = PruneChannels(round_to=4), job_of(model, points)
    smaller = technique.apply(model, job)
    assert smaller.get_submodule("points").out_channels == 8
    assert "frexp" in {c.layer: c.reason for c in technique.coverage(model, smaller, job).layers}["all"]


class Cached(nn.Module):
    """Begins with an empty cache."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        past = tokens.new_zeros(tokens.shape[0], 0, 16).view(tokens.shape[0], 0, 4, 4)
        seen = self.second(torch.relu(self.first(tokens))).view(*tokens.shape[:2], 4, 4)
        return self.out(torch.cat([past, seen], 1).flatten(2))  # type: ignore[no-any-return]


def test_an_empty_tensor_keeps_what_it_meets_and_nothing_else() -> None:
    model, tokens = trained(Cached()), torch.randn(4, 6, 8)
    smaller = PruneChannels(round_to=4).apply(model, job_of(model, tokens))
    assert smaller.get_submodule("first").out_features == 8
    assert smaller.get_submodule("second").out_features == 16


class Constant(nn.Module):
    """Fourier features: a buffer makes channels too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(4, 16))
        self.first, self.out = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.first((x @ self.waves).sin())))  # type: ignore[no-any-return]


@pytest.mark.parametrize("technique", [PruneChannels(criterion="taylor", round_to=4), GROUP_LASSO], ids=str)
def test_channels_that_a_buffer_makes_have_no_gradient_and_stop_nobody(technique: ModuleTechnique) -> None:
    model, x = trained(Constant()), torch.randn(32, 4)
    labels = (x[:, 0] > 0).long()
    task = Task(model, evaluate=[(x, labels)], train=[(x, labels)])
    result = technique.apply(model, Job.of(task, threads=1))
    if technique is GROUP_LASSO:
        changed = {
            name for name, value in result.named_parameters() if not torch.equal(value, model.get_parameter(name))
        }
        assert "first.weight" in changed
    else:
        assert result.get_submodule("first").out_features == 8
    assert result(x).isfinite().all()
