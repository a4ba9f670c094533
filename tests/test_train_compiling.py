"""A compiled training is the training that it would be without the compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.techniques import FineTune, QuantizationAwareTraining
from paring.train.constraint import HeldZeros
from paring.train.loop import Trained, fit_
from paring.train.quantizers import HeldSteps
from paring.train.settings import Training
from paring.types import Batch, Task

ONCE = Training(epochs=2, learning_rate=0.05, precision="float32")


class Small(nn.Module):
    """A rectifier that is not a module."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.last(self.second(relu(self.norm(self.first(inputs)))))
        return answers


def data() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(rows, 6, generator=generator) for rows in (16, 16, 7)]
    return [(x, torch.stack([x.sum(1), x.square().sum(1)], 1)) for x in inputs]


def squared(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
    return mse_loss(model(inputs), targets)


def trained(model: nn.Module, training: Training, said: list[str]) -> tuple[Trained, list[Tensor]]:
    """What a training comes to, of layers with inputs of two levels where the network is quantized."""
    job = replace(Job.of(Task(Small(16).eval(), data(), train=data()), seed=0, threads=1), say=said.append)
    held = HeldSteps(model, HeldZeros(model, job.original), progressive=False)
    return fit_(model, data(), squared, training, job, constraint=held), [*model.state_dict().values()]


def quantized() -> nn.Module:
    task = Task(Small(16).eval(), data(), train=data())
    binary = QuantizationAwareTraining(weights="binary", activations="uint1", ends="float")
    return binary.student(task.model, Job.of(task, seed=0, threads=1))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is installed")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Small(16), id="plain"),
        pytest.param(quantized, id="two levels behind a rectifier"),
    ],
)
def test_it_gives_the_same_weights(make: Callable[[], nn.Module]) -> None:
    said: list[str] = []
    plain, weights = trained(make(), ONCE, said)
    quick, others = trained(make(), replace(ONCE, compiled=True), said)
    assert any(line.startswith("compiled the network in") for line in said)
    assert quick == replace(plain, loss=pytest.approx(plain.loss, rel=1e-4))
    for ours, theirs in zip(others, weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_it_trains_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    said: list[str] = []
    plain, weights = trained(Small(11), ONCE, said)
    quick, others = trained(Small(11), replace(ONCE, compiled=True), said)
    assert any(line.startswith("training without the compiler, which fails:") for line in said)
    assert quick == plain
    assert all(map(torch.equal, others, weights))


def test_features_are_not_seen_through_it() -> None:
    with pytest.raises(TechniqueError, match="compiled=True hides what modules inside give from features"):
        FineTune(features=("layer1",), compiled=True)
