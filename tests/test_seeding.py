"""Rows that are drawn at random: the same ones for the same seed, whatever else a process has drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from paring.data.job import Job
from paring.data.seeding import seeded
from paring.data.split import split_rows
from paring.techniques.fine_tune import FineTune
from paring.types import Batch, Task
from tests import sleepy

POINTS, CLASSES = sleepy.rows(600)


class Drawn:
    """Batches of rows in an order that a generator of the whole process gives."""

    def __init__(self, order: Callable[[], Iterable[int]]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[Batch]:
        for picked in torch.tensor(list(self.order())).split(50):
            yield POINTS[picked], CLASSES[picked]


def by_python() -> list[int]:
    return random.sample(range(len(POINTS)), len(POINTS))


def by_numpy() -> list[int]:
    found: list[int] = np.random.permutation(len(POINTS)).tolist()
    return found


def by_torch() -> list[int]:
    found: list[int] = torch.randperm(len(POINTS)).tolist()
    return found


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(POINTS, CLASSES), batch_size=50, shuffle=True)


SHUFFLED: dict[str, Iterable[Batch]] = {
    "python": Drawn(by_python),
    "numpy": Drawn(by_numpy),
    "torch": Drawn(by_torch),
    "loader": loader(),
}


def draw() -> tuple[float, float, float]:
    """What a process does meanwhile."""
    return random.random(), float(np.random.random()), float(torch.rand(()))


def observed(data: Iterable[Batch], seed: int) -> torch.Tensor:
    """All calibration rows."""
    draw()
    job = Job.of(Task(sleepy.network(), [(POINTS, CLASSES)], train=data), seed=seed)
    return torch.cat([inputs for inputs, _ in job.calibrate if isinstance(inputs, torch.Tensor)])


@pytest.mark.parametrize("name", SHUFFLED)
def test_calibration_rows_of_shuffled_data_come_from_the_seed(name: str) -> None:
    first = observed(SHUFFLED[name], 3)
    assert torch.equal(first, observed(SHUFFLED[name], 3))
    assert not torch.equal(first, observed(SHUFFLED[name], 4))


@pytest.mark.parametrize("seed", [0, 2**70])
def test_what_the_process_draws_itself_is_as_if_no_row_had_been_drawn(seed: int) -> None:
    with seeded(5):
        usual = [draw() for _ in range(2)]

    def failing() -> None:
        with seeded(seed):
            draw()
            raise KeyError

    with seeded(5):
        first = draw()
        with pytest.raises(KeyError):
            failing()
        assert [first, draw()] == usual


@pytest.mark.parametrize("name", SHUFFLED)
def test_shuffled_evaluation_rows_are_the_same_question_whatever_the_seed(name: str, tmp_path: Path) -> None:
    digests = set()
    for seed in (0, 1):
        draw()
        digests.add(split_rows(Task(sleepy.network(), SHUFFLED[name]), tmp_path / "data", ("input",), seed).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_training_on_shuffled_data_gives_the_same_network(name: str) -> None:
    def trained() -> torch.Tensor:
        draw()
        job = Job.of(Task(sleepy.network(), [(POINTS, CLASSES)], train=SHUFFLED[name]), threads=1)
        return torch.cat([value.flatten() for value in FineTune(epochs=1).apply(sleepy.network(), job).parameters()])

    assert torch.equal(trained(), trained())
