"""How far answers lie apart, and that an export is held against the module in batches of the served size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paring.backends.isolated import IsolatedSession
from paring.data.rows import write_rows
from paring.errors import ExportError
from paring.flow.reference import _check_export
from paring.flow.request import Request
from paring.measure.agreement import relative_error
from paring.types import Array, Budget, Signature, Task, TensorSpec
from tests.faulty_backends import Faulty

LABELS = np.array([3, 950, 7, 2] * 25)


@pytest.mark.parametrize(
    ("expected", "moved", "error"),
    [
        (LABELS, np.where(np.arange(100) == 0, 950, LABELS), 0.01),
        (LABELS.astype(np.uint8), LABELS.astype(np.uint8) - 1, 1.0),
        (np.ones((2, 4), bool), np.eye(2, 4, dtype=bool), 0.75),
        (LABELS, LABELS.astype(np.int32), 0.0),
        (np.array([3.0, 4.0]), np.array([3.0, 4.5]), 0.1),
        (np.zeros(4, np.float32), np.full(4, 0.5, np.float32), 0.5),
    ],
)
def test_labels_and_masks_differ_by_places_and_numbers_by_size(expected: Array, moved: Array, error: float) -> None:
    assert relative_error({"y": moved}, {"y": expected}) == pytest.approx(error)


@pytest.mark.parametrize("found", [{}, {"y": LABELS[:5]}, {"y": np.full(100, np.nan)}])
def test_what_can_not_be_compared_lies_infinitely_far_apart(found: dict[str, Array]) -> None:
    assert relative_error(found, {"y": LABELS.astype(np.float32)}) == float("inf")


class Counting(nn.Module):
    """Answers with the number of rows that it is asked at once."""

    def __init__(self, extra: float = 0.0) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + len(x) + self.extra


SIGNATURE = Signature(
    (TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 2)),), "tensor", "tensor"
)


@pytest.mark.parametrize("batch_size", [1, 5, 40])
def test_an_export_is_checked_in_batches_of_the_served_size(batch_size: int, tmp_path: Path) -> None:
    rows = write_rows([(torch.rand(20, 2), torch.zeros(20))], tmp_path, ("x",))
    budget = Budget(batch_size=batch_size)
    asked = Request(Task(Counting().eval(), [(torch.rand(20, 2), torch.zeros(20))]), budget, tmp_path)
    other = Request(Task(Counting(batch_size).eval(), asked.task.evaluate), budget, tmp_path)
    with IsolatedSession(Faulty("batch"), Path("none.onnx"), threads=1) as session:
        _check_export(asked, session, rows, SIGNATURE)
        with pytest.raises(ExportError, match=r"'y' is off by 50\.0%"):
            _check_export(other, session, rows, SIGNATURE)
