"""Rows on disk and the two splits, as a run makes them from the user's batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paring.data.rows import write_rows
from paring.data.split import SELECTION_SHARE, split_rows
from paring.errors import TaskError
from paring.types import Task


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches whose every row holds its own number."""
    starts = np.cumsum([0, *sizes[:-1]])
    return [
        (torch.arange(start, start + size).float()[:, None].expand(size, 3), torch.arange(start, start + size))
        for start, size in zip(starts, sizes, strict=True)
    ]


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_rows_come_back_in_order_whatever_the_batches(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    rows = write_rows(batches(*sizes), tmp_path_factory.mktemp("rows"), ("x",))
    inputs, targets = rows.take(0, len(rows))
    assert len(rows) == sum(sizes)
    assert inputs["x"].shape == (len(rows), 3)
    assert (inputs["x"][:, 0] == np.arange(len(rows))).all()
    assert torch.equal(targets, torch.arange(len(rows)))


def test_a_range_of_rows_is_that_range(tmp_path: Path) -> None:
    rows = write_rows(batches(4, 4), tmp_path, ("x",))
    inputs, targets = rows.take(3, 6)
    assert inputs["x"][:, 0].tolist() == [3, 4, 5]
    assert targets.tolist() == [3, 4, 5]


def test_structures_of_inputs_and_targets_survive(tmp_path: Path) -> None:
    inputs = {"ids": torch.ones(2, 5, dtype=torch.int64), "mask": torch.zeros(2, 5)}
    rows = write_rows([(inputs, (torch.zeros(2), torch.ones(2, 3)))], tmp_path, ("ids", "mask"))
    arrays, targets = rows.take(0, 2)
    assert list(arrays) == ["ids", "mask"]
    assert arrays["ids"].dtype == np.int64
    assert isinstance(targets, tuple)
    assert targets[1].shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([(torch.zeros(2, 3), torch.zeros(3))], "has shape (3,), but the inputs have 2 rows"),
        ([(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2))], "give all batches one shape"),
        ([(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 3), torch.zeros(2).double())], "changes from float32"),
    ],
)
def test_data_that_cannot_be_stored_is_said_in_one_sentence(tmp_path: Path, data: list[object], says: str) -> None:
    with pytest.raises(TaskError) as error:
        write_rows(data, tmp_path, ("x",))  # type: ignore[arg-type]
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_two_splits_share_no_row_and_lose_none(tmp_path: Path) -> None:
    task = Task(torch.nn.Identity().eval(), evaluate=batches(50, 50))
    splits = split_rows(task, tmp_path / "data", ("x",), seed=3)
    selection = splits.selection.take(0, len(splits.selection))[1].tolist()
    certification = splits.certification.take(0, len(splits.certification))[1].tolist()
    assert sorted(selection + certification) == list(range(100))
    assert len(selection) == round(100 * SELECTION_SHARE)


def test_the_split_follows_the_seed(tmp_path: Path) -> None:
    task = Task(torch.nn.Identity().eval(), evaluate=batches(40))
    first, again, other = (
        split_rows(task, tmp_path / name, ("x",), seed).selection.digest()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def test_data_that_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(TaskError, match="can be read only once"):
        Task(torch.nn.Identity(), evaluate=iter(batches(3)))
