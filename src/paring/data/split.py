"""The two splits: the search looks at one, finalists alone at the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paring.data.rows import Rows, write_rows
from paring.data.seeding import seeded
from paring.errors import DataError
from paring.types import Batch, Signature, Task, restructured

SELECTION_SHARE = 0.25
"""The certificate's bound narrows with the root of its rows; the search only ranks, so it gets the smaller share."""

SHOWN_BATCH = 64


@dataclass(frozen=True)
class Splits:
    """`selection` guides the search; `certification` is looked at by finalists alone.

    `digest` is the identity of the rows before they were divided, the same for every seed.
    """

    selection: Rows
    certification: Rows
    digest: str


def split_rows(task: Task, folder: Path, input_names: tuple[str, ...], seed: int) -> Splits:
    """Write the task's evaluation rows below `folder`, divided at random by `seed`."""
    shutil.rmtree(folder, ignore_errors=True)
    with seeded(0):  # Data that is shuffled is the same data in a run that goes on, and whatever seed divides it.
        rows = write_rows(task.evaluate, folder / "all", input_names)
    if len(rows) < 2:
        raise DataError(f"evaluate has {len(rows)} row: at least 2 are needed, one to search on and one to certify on.")
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = max(1, round(SELECTION_SHARE * len(rows)))
    splits = Splits(
        rows.selected(order[:cut], folder / "selection"),
        rows.selected(order[cut:], folder / "certification"),
        rows.digest(),
    )
    shutil.rmtree(rows.folder)
    return splits


@dataclass(frozen=True)
class Shown:
    """Rows as batches in the user's own structure, read anew each time: what techniques may see of `evaluate`."""

    rows: Rows
    signature: Signature

    def __iter__(self) -> Iterator[Batch]:
        for arrays, targets in self.rows.batches(SHOWN_BATCH):
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            yield restructured(tensors, self.signature.input_structure), targets
