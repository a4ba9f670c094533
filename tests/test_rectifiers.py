"""Inputs of two levels behind a rectifier: the rectifier changes no value, and takes no gradient away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paring.data.job import Job
from paring.ops.formats import format_of
from paring.ops.ranges import Histogram
from paring.techniques import QuantizationAwareTraining
from paring.train.estimators import input_quantizer
from paring.train.rectifiers import NotedRectifiers, before_rectifier
from paring.types import Task

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": functional.relu,
    "function in place": lambda values: functional.relu(values, inplace=True),
    "function by name": lambda values: functional.relu(input=values),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda values: values.relu(),
    "method in place": lambda values: values.relu_(),
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_rectifier_was_given(form: str) -> None:
    start = torch.linspace(-2, 2, 9, requires_grad=True)
    with NotedRectifiers():
        given = start * 1.0
        rectified = FORMS[form](given)
        if "in place" in form:
            assert given is rectified
        before = before_rectifier(rectified)
    assert torch.equal(before, start)
    assert torch.equal(rectified, start.clamp_min(0))
    (slopes,) = torch.autograd.grad(before.sum() + 2 * rectified.sum(), start)
    assert slopes.tolist() == [1, 1, 1, 1, 1, 3, 3, 3, 3]


def test_other_values_are_as_they_are() -> None:
    values = torch.ones(3, requires_grad=True)
    with NotedRectifiers():
        assert before_rectifier(values) is values
        other = functional.gelu(values)
        assert before_rectifier(other) is other
        with torch.no_grad():
            rectified = functional.relu(values)
            assert before_rectifier(rectified) is rectified
    rectified = functional.relu(values)
    assert before_rectifier(rectified) is rectified


@pytest.mark.parametrize("added", [0.0, 1.0])
def test_a_compiler_sees_what_a_rectifier_was_given_until_it_changes(added: float) -> None:
    def looked_behind(values: Tensor) -> Tensor:
        rectified = functional.relu(values * 1.0)
        if added:
            rectified[3:].add_(added)
        return before_rectifier(rectified)

    start = torch.linspace(-2, 2, 9, requires_grad=True)
    with NotedRectifiers():
        seen = torch.compile(looked_behind, backend="eager", fullgraph=True)(start)
    torch.compiler.reset()
    assert torch.equal(seen, torch.where(torch.arange(9) < 3, start, start.clamp_min(0) + added) if added else start)


def test_what_changes_in_place_later_changes_nothing_that_was_noted() -> None:
    start = torch.linspace(-2, 2, 9, requires_grad=True)
    with NotedRectifiers():
        given = start * 1.0
        rectified = functional.relu(given)
        given.add_(1)
        assert torch.equal(before_rectifier(rectified), start)
        quantized = before_rectifier(rectified).square()
        given.add_(1)
        assert torch.autograd.grad(quantized.sum(), start)[0].tolist() == (2 * start).tolist()
        rectified += 1
        assert before_rectifier(rectified) is rectified


@pytest.mark.parametrize("name", ["uint1", "binary"])
def test_two_levels_learn_from_below_zero_too(name: str) -> None:
    seen = Histogram()
    seen.add(np.repeat(np.array([0, 2], np.float32), [900, 100]))
    quantizer = input_quantizer("learned", format_of(name), seen, 100)
    assert quantizer is not None
    start = torch.linspace(-3, 3, 601, requires_grad=True)
    alone = quantizer(functional.relu(start * 1.0))
    (blocked,) = torch.autograd.grad(alone.sum(), start)
    with NotedRectifiers():
        seen_through = quantizer(functional.relu(start * 1.0))
    (passed,) = torch.autograd.grad(seen_through.sum(), start)
    assert torch.equal(alone, seen_through)
    assert len(alone.unique()) == 2
    below = start < 0
    assert not blocked[below].any()
    assert passed[below].any()
    assert torch.equal(passed[~below][1:], blocked[~below][1:])


class Sleeping(nn.Module):
    """Its hidden values lie a little below 0 for all inputs, but for one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3)
        with torch.no_grad():
            self.first.weight.mul_(1e-3)
            self.first.bias.copy_(torch.tensor([1.0, -0.05, -0.05, -0.05]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(functional.relu(self.first(x)))).mean((2, 3))  # type: ignore[no-any-return]


def test_a_training_wakes_what_sleeps_below_a_rectifier() -> None:
    torch.manual_seed(0)
    rows = [(torch.randn(16, 1, 8, 8), torch.randint(2, (16,)))] * 4
    network = Sleeping().eval()
    job = Job.of(Task(network, evaluate=rows, train=rows, name="sleeping"), seed=0)

    def slopes(activations: str) -> Tensor:
        """Of the first biases, as the training has them."""
        training = QuantizationAwareTraining(activations=activations)
        student = training.student(network, job)
        loss, constraint = training.shaped(lambda model, x, y: model(x).square().mean(), student, job)
        with constraint.shown_(0.0):
            loss(student, *rows[0]).backward()  # type: ignore[no-untyped-call]
        return student.get_parameter("first.bias").grad  # type: ignore[return-value]

    assert not slopes("uint2")[1:].any()
    assert slopes("uint1")[1:].all()


def test_bits_that_go_down_to_one_see_through_it_at_the_end() -> None:
    torch.manual_seed(0)
    rows = [(torch.randn(16, 1, 8, 8), torch.randint(2, (16,)))]
    network = Sleeping().eval()
    job = Job.of(Task(network, evaluate=rows, train=rows, name="sleeping"), seed=0)
    training = QuantizationAwareTraining(activations="uint1", progressive=True)
    student = training.student(network, job)
    loss, constraint = training.shaped(lambda model, x, y: model(x).square().mean(), student, job)
    for share, awake in ((0.0, False), (1.0, True)):
        student.zero_grad()
        with constraint.shown_(share):
            loss(student, *rows[0]).backward()  # type: ignore[no-untyped-call]
        slopes = student.get_parameter("first.bias").grad
        assert slopes is not None
        assert bool(slopes[1:].any()) == awake
