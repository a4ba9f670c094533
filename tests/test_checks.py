"""Bad tasks: each is refused before any time is spent, in one sentence that names the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paring.data.checks import check_task, user_scores
from paring.errors import BudgetError, DataError, TaskError
from paring.types import Budget, CorpusMetric, Task

DATA = [(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))]


class Calls(nn.Module):
    """A network that is a function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


def fails(x: Tensor) -> Tensor:
    raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Linear(3, 2), "train mode"),
        (nn.Sequential(nn.Linear(3, 2).eval(), nn.Dropout()), "call .eval()"),
        (Calls(lambda x: torch.rand(4, 2)), "random output"),
        (Calls(lambda x: x[:, :2] * float("nan")), "NaN or infinity"),
        (Calls(fails), "can't run on the first batch of evaluate: RuntimeError: no such thing"),
    ],
)
def test_networks_that_cannot_be_compared(model: nn.Module, says: str) -> None:
    with pytest.raises(TaskError, match="network") as error:
        check_task(Task(model, evaluate=DATA), model)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("1.weight", math.nan, "parameter '1.weight' holds NaN or infinity"),
        ("0.bias", math.inf, "parameter '0.bias' holds NaN or infinity"),
        ("2.running_var", math.nan, "buffer '2.running_var' holds NaN"),
    ],
)
def test_the_parameter_that_is_no_number_is_named(name: str, value: float, says: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.BatchNorm1d(2)).eval()
    model.state_dict()[name].view(-1)[1] = value
    with pytest.raises(TaskError) as error:
        check_task(Task(model, evaluate=DATA), model)
    assert str(error.value) == (
        f"the network returns NaN or infinity on the first batch of evaluate: its {says}, so check its training."
    )


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (
            lambda outputs, targets: torch.tensor(0.5),
            "returned shape () for 4 rows: return one score",
        ),
        (lambda outputs, targets: torch.zeros(4, 2), "returned shape (4, 2) for 4 rows"),
        (lambda outputs, targets: torch.zeros(3), "returned shape (3,) for 4 rows"),
        (lambda outputs, targets: 0.5, "returned a float"),
        (lambda outputs, targets: torch.full((4,), 2.0), "outside score_range=(0.0, 1.0): give the range"),
        (lambda outputs, targets: torch.full((4,), 1.0001), "outside score_range=(0.0, 1.0): give the range"),
        (CorpusMetric(lambda outputs, targets: torch.zeros(4, 1), lambda rows: 73.0), "from 73 to 73, outside"),
        (lambda outputs, targets: torch.full((4,), float("nan")), "NaN"),
        (lambda outputs, targets: outputs.nothing, "the metric failed on 4 rows with AttributeError"),
        (CorpusMetric(lambda outputs, targets: torch.zeros(4), lambda rows: 0.0), "shape (4, k)"),
    ],
)
def test_metrics_that_break_their_contract(metric: Callable[[object, object], Tensor], says: str) -> None:
    with pytest.raises(TaskError) as error:
        check_task(Task(linear(), evaluate=DATA, metric=metric), linear())
    assert says in str(error.value)


def test_scores_that_rounding_put_beyond_their_range_are_cut_to_it() -> None:
    task = Task(linear(), evaluate=DATA, metric=lambda outputs, targets: torch.tensor([1.0000001, 1.0, 0.5, -1e-7]))
    check_task(task, linear())
    assert user_scores(task, None, None, 4).tolist() == [1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (torch.tensor([0, 1, 2, 0]), "label 2 is out of range: the network has 2 classes"),
        (torch.tensor([0, -1, 1, 0]), "label -1 is out of range"),
        (torch.zeros(4, 2, dtype=torch.int64), "accuracy needs one label for each row"),
        (None, "evaluate has no targets"),
    ],
)
def test_labels_that_do_not_fit(targets: Tensor | None, says: str) -> None:
    with pytest.raises(TaskError) as error:
        check_task(Task(linear(), evaluate=[(torch.ones(4, 3), targets)]), linear())
    assert says in str(error.value)


class Pair(nn.Module):
    """Two answers."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": x[:, :2], "sum": x.sum(1)}


def first(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return (outputs["scores"].argmax(1) == targets).float()


def of_scores(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs["scores"], targets)


def asks_for_gradients(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    scores = outputs["scores"].requires_grad_()
    return torch.autograd.grad(scores.square().sum(), scores, create_graph=True)[0].sum()


@pytest.mark.parametrize(
    ("train", "loss", "says"),
    [
        (
            DATA,
            None,
            "the loss failed with AttributeError: 'dict' object has no attribute 'flatten', on targets",
        ),
        (DATA, None, "and the network's dict: give the task a `loss` that reads these, or let the targets be None"),
        (
            DATA,
            lambda outputs, targets: outputs["logits"],
            "the loss failed with KeyError: 'logits', on targets of",
        ),
        (DATA, lambda outputs, targets: outputs["sum"], "the loss returned shape (4,): return a tensor of shape ()"),
        (DATA, lambda outputs, targets: 0.5, "the loss returned a float: return a tensor of shape ()"),
        (
            [(DATA[0][0], torch.rand(4))],
            None,
            "targets of train hold fractions, and the default loss, cross_entropy, takes",
        ),
    ],
    ids=range(6),
)
def test_a_loss_that_can_not_train_the_network_is_told_beforehand(train: Any, loss: Any, says: str) -> None:
    task = Task(Pair().eval(), DATA, train=train, metric=first, **({"loss": loss} if loss else {}))
    with pytest.raises(TaskError) as error:
        check_task(task, Pair().eval())
    assert says in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        {"train": DATA, "loss": of_scores},
        {"train": DATA, "loss": asks_for_gradients},
        {"train": [(DATA[0][0], None)]},
        {"calibrate": DATA},
    ],
    ids=["reads them", "asks for gradients", "no labels", "calibrates"],
)
def test_a_loss_that_reads_what_it_is_given_or_is_given_nothing_passes(data: dict[str, Any]) -> None:
    check_task(Task(Pair().eval(), DATA, metric=first, **data), Pair().eval())


def test_labels_beyond_the_classes_in_the_first_rows_to_train_on() -> None:
    inputs, targets = DATA[0]
    train = [(inputs, torch.full_like(targets, 2))]
    with pytest.raises(DataError, match=r"train holds the label 2, but the network has 2 classes \(0 to 1\)\."):
        check_task(Task(linear(), DATA, train=train), linear())
    ignored = torch.tensor([0, -100, 1, 1])
    check_task(Task(linear(), DATA, train=[(inputs, ignored)]), linear())


def test_a_sound_task_passes_and_one_label_more_than_classes_does_not() -> None:
    inputs, targets = DATA[0]
    check_task(Task(linear(), evaluate=DATA), linear())
    with pytest.raises(TaskError):
        check_task(Task(linear(), evaluate=[(inputs, torch.full_like(targets, 10_000))]), linear())


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Budget(max_drop=-0.1), "max_drop=-0.1"),
        (lambda: Budget(max_drop=float("nan")), "max_drop=nan"),
        (lambda: Budget(confidence=1.0), "confidence=1.0"),
        (lambda: Budget(objective="speed"), "latency, throughput, size, memory"),  # type: ignore[arg-type]
        (lambda: Budget(batch_size=0), "batch_size=0"),
        (lambda: Budget(max_latency_ms=0.0), "max_latency_ms=0.0"),
    ],
)
def test_budgets_that_make_no_sense(build: Callable[[], Budget], says: str) -> None:
    with pytest.raises(BudgetError) as error:
        build()
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("field", "values", "says"),
    [
        ("max_drop", ("0.01", math.inf, math.nan, True, None, 10**400, 1j), "must be 0 or more, a finite number"),
        ("confidence", ("95", 95, math.nan, True, None), "must be a number of at least 0.5 and below 1"),
        ("batch_size", ("8", 8.0, True, -1, None, np.int64(8)), "must be 1 or more, a whole number"),
        ("max_latency_ms", ("5", math.inf, math.nan, True, -1), "must be a finite number above 0, or None"),
        ("max_size_bytes", ("2MB", math.inf, True, -5), "must be a finite number above 0, or None"),
        ("max_memory_bytes", ("2MB", math.inf, True, 0), "must be a finite number above 0, or None"),
        ("objective", (None, 3, ["latency"]), "is unknown: choose one of latency, throughput, size, memory"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_budgets_of_another_kind(field: str, values: tuple[Any, ...], says: str) -> None:
    for value in values:
        with pytest.raises(BudgetError) as error:
            Budget(**{field: value})
        assert str(error.value).startswith(f"{field}={value!r}"[:60])
        assert says in str(error.value)


def test_whole_numbers_will_do_where_others_may_stand() -> None:
    assert Budget(max_drop=0, max_latency_ms=5, max_size_bytes=2e6).max_drop == 0  # type: ignore[arg-type]
