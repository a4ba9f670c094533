"""Bad tasks: each is refused before any time is spent, in one sentence that names the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paring.data.checks import check_task, user_scores
from paring.errors import BudgetError, TaskError
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
