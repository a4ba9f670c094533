"""Batch norms are folded into the convolutions before them, or the network stays as it is and says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.features import features_of
from paring.graph.folding import folded
from paring.techniques.fine_tune import FineTune
from paring.train.distiller import Distiller, Teaching
from paring.types import Task
from tests.structures import Dense, Mobile, ResNet, conv_bn, images, trained


def norms(model: nn.Module) -> int:
    """Batch norms that a call runs."""
    calls: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda called, *_: calls.append(called))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model(images())
    for hook in hooks:
        hook.remove()
    return len(calls)


class Shared(nn.Module):
    """One convolution with a batch norm for each of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn(3, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.conv(F.relu(self.first(self.conv(self.stem(x))))))
        return y


class Read(nn.Module):
    """What one convolution gives is read beside its batch norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = conv_bn(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.stem(x))
        z: Tensor = self.norm(y) + y
        return z


class Deciding(nn.Module):
    """Looks at its inputs to decide, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, 8), nn.Linear(8, 5)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        before, self.seen = self.seen, x
        y = F.relu(self.stem(x))
        y = y if before is None or float(before.sum()) < 1e9 else y.neg()
        y = y if float(x.sum()) < 1e9 else y.neg()
        z: Tensor = self.head(y.mean((2, 3)))
        return z


class Suspicious(nn.Module):
    """Does something else with what is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z: Tensor = self.norm(y.neg() if isinstance(x, Tensor) else y)
        return z


@pytest.mark.parametrize(
    ("make", "before", "after"),
    [
        (lambda: ResNet(project=True), 15, 0),
        (lambda: ResNet(project=False), 13, 0),
        (Mobile, 4, 0),
        (Dense, 3, 0),
        (Shared, 3, 2),
        (Read, 2, 1),
    ],
    ids=["projection", "option A", "mobile", "dense", "shared", "read"],
)
def test_the_answers_stay_and_the_network_is_untouched(make: Callable[[], nn.Module], before: int, after: int) -> None:
    model = trained(make().requires_grad_(False))
    kept = copy.deepcopy(model.state_dict())
    result = folded(model, images())
    other = images(rows=7) * 3
    torch.testing.assert_close(result(other), model(other), rtol=1e-3, atol=1e-3)
    assert (norms(model), norms(result)) == (before, after)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_modules_keep_their_names_and_what_they_give() -> None:
    model = trained(ResNet(project=True).requires_grad_(False))
    names = [name for name, module in model.named_modules() if len(list(module.children())) > 1]
    result = folded(model, images(), names)
    assert norms(result) == 0
    with features_of(model, names) as expected, features_of(result, names) as found:
        result(images()), model(images())
    assert [each.module for each in expected] == [each.module for each in found]
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(ours.values, theirs.values, rtol=1e-3, atol=1e-3)


def test_a_convolution_whose_own_output_is_asked_for_is_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).requires_grad_(False)
    with pytest.raises(TechniqueError, match="answers are others"):
        folded(trained(model), images(), ["0"])


def test_a_network_without_batch_norms_is_not_traced() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)).eval()
    assert folded(model, images()) is model


@pytest.mark.parametrize(
    ("model", "says"),
    [(Deciding(), "can't be traced to fold its batch norms: TypeError"), (Suspicious(), "answers are others")],
    ids=["deciding", "suspicious"],
)
def test_what_can_not_be_folded_is_said(model: nn.Module, says: str) -> None:
    with pytest.raises(TechniqueError, match=says):
        folded(trained(model.requires_grad_(False)), images())


def job_of(model: nn.Module, said: list[str]) -> Job:
    inputs = images(rows=8)
    with torch.no_grad():
        data = [(inputs, model(inputs).argmax(1))]
    return replace(Job.of(Task(model, evaluate=data, train=data), threads=1), say=said.append)


def test_the_teacher_is_folded_and_the_task_keeps_its_network() -> None:
    model, said = trained(ResNet(project=True).requires_grad_(False)), list[str]()
    distiller = Distiller(Teaching(), job_of(model, said))
    assert norms(distiller.teacher) == 0
    assert norms(model) == 15
    assert not any(parameter.requires_grad for parameter in distiller.teacher.parameters())
    assert not said


def test_a_teacher_that_can_not_be_folded_teaches_as_it_is() -> None:
    model, said = trained(Deciding().requires_grad_(False)), list[str]()
    after = FineTune(epochs=2).apply(model, job_of(model, said))
    assert any("the teacher keeps its batch norms: the network can't be traced" in line for line in said)
    assert not torch.equal(after.head.weight, model.head.weight)  # type: ignore[union-attr, arg-type]
