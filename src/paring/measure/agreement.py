"""How far answers lie apart: of two runtimes, two hosts, or of one network that was asked in two ways."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paring.backends.isolated import IsolatedSession
from paring.data.rows import Rows
from paring.types import Array, Arrays, check_finite

COMPARED_ROWS = 16


def relative_error(found: Arrays, expected: Arrays) -> float:
    """Root mean square of the difference over that of the expected outputs, of the worst output.

    Of outputs that are integers or booleans (labels, tokens, masks), which have no size, the share of places that
    differ. Infinite where an output is missing, has another shape, or holds what is no number.
    """
    errors = [0.0]
    for name, right in expected.items():
        if name not in found or found[name].shape != right.shape:
            return float("inf")
        errors.append(_difference(found[name], right))
    return max(errors) if np.isfinite(errors).all() else float("inf")


def _difference(found: Array, right: Array) -> float:
    if right.dtype.kind in "iub":
        return float(np.mean(found != right)) if right.size else 0.0
    difference = np.asarray(found, np.float64) - np.asarray(right, np.float64)
    size = float(np.sqrt(np.mean(np.square(np.asarray(right, np.float64))))) or 1.0
    return float(np.sqrt(np.mean(np.square(difference)))) / size


def answers(session: IsolatedSession, inputs: Mapping[str, Path], rows: int, batch_size: int) -> Arrays:
    """The outputs of the first rows of .npy files, run in whole batches of that size."""
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        files = session.run_rows(inputs, start=0, stop=rows, batch_size=batch_size, folder=Path(folder))
        return {name: np.load(file) for name, file in files.items()}


def neighbour_effect(session: IsolatedSession, rows: Rows, batch_size: int) -> float:
    """How far the answers to some rows move, as a relative error, when each row is run alone and not in a batch.

    The batch is the one that is served, or of two rows where single rows are: more might not fit into memory. Runtimes
    that add in another order move answers by about 1e-6; integer kernels that round differently, or ranges found for
    each batch, by up to a few hundredths. Softmax, means or batch statistics over axis 0 move them by about 1.
    Raises TaskError where an answer is not finite.
    """
    count = min(COMPARED_ROWS, len(rows))
    together = answers(session, rows.input_files, count, max(2, batch_size))
    check_finite(together, "the network's output")
    return relative_error(answers(session, rows.input_files, count, 1), together)
