"""What answers cost on this machine, and whether the time limit holds those that a run can't do without."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from paring.certify.corpus import bootstrap_scores, bootstrap_size
from paring.errors import BudgetError
from paring.flow.paired import KNOWN_S, Check
from paring.types import Array, CorpusMetric, Task

ANSWERS = 2.0
"""To each row of `evaluate` that a run can't do without: the original's, and those of one candidate."""

ROOMY_ANSWERS = 2.5
"""What leaves time for a search beside them."""

ROOMY_BOOTSTRAPS = 5.0
"""The limit in bootstraps of one network, so that two of them fit behind a search that took its share and its grace."""

TIMED_SCORES = 5
"""Scores of a bootstrap that tell how long the others take; the quickest counts, as others may have been disturbed."""


@dataclass(frozen=True)
class Pace:
    """Seconds that the original's process takes to start, a row to answer, and a bootstrap of one network's scores.

    The last one is 0 where the metric is a mean over rows: its certificate needs no bootstrap.
    """

    start_s: float
    row_s: float
    bootstrap_s: float = 0.0

    def look_s(self, rows: int) -> float:
        """Of one network's look at so many certification rows."""
        return self.start_s + self.row_s * rows + self.bootstrap_s


def bootstrap_time(task: Task, scores: Array, rows: int) -> float:
    """Seconds of a bootstrap over so many rows like those of `scores`, which are repeated; 0 where none is needed."""
    if not isinstance(task.metric, CorpusMetric):
        return 0.0
    each_s, begin_s = [], time.monotonic()
    for _ in islice(bootstrap_scores(scores[np.arange(rows) % len(scores)], task.metric.reduce), TIMED_SCORES):
        each_s.append(time.monotonic() - begin_s)
        begin_s = time.monotonic()
    return bootstrap_size(rows) * min(each_s)


def clocked(values: Iterator[float], count: int, check: Check) -> Iterator[float]:
    """The values, of which there are `count`; between them `check` may end it, once it is known what one takes."""
    begin_s = time.monotonic()
    for done, value in enumerate(values, start=1):
        yield value
        took_s = time.monotonic() - begin_s
        if took_s >= KNOWN_S:
            check(took_s / done, count - done)


def check_limit(time_limit_s: float, rows: int, row_s: float) -> None:
    """Raise BudgetError where the limit can't hold ANSWERS to so many rows, at the original's seconds for each."""
    if ANSWERS * rows * row_s <= time_limit_s:
        return
    raise BudgetError(
        f"time_limit_s={time_limit_s:g} is too short for the {rows} rows of evaluate: the original takes "
        f"{1e3 * row_s:.3g} ms a row here, and answering each once with it and once with a candidate takes "
        f"{ANSWERS * rows * row_s:.0f} s. Allow at least {math.ceil(ROOMY_ANSWERS * rows * row_s)} s, or give evaluate "
        f"at most {int(time_limit_s / (ROOMY_ANSWERS * row_s))} rows."
    )


def check_bootstraps(time_limit_s: float, rows: int, bootstrap_s: float) -> None:
    """Raise BudgetError where the limit can't hold the bootstraps of a certificate on so many rows, and a search."""
    if ROOMY_BOOTSTRAPS * bootstrap_s <= time_limit_s:
        return
    calls = bootstrap_size(rows)
    raise BudgetError(
        f"time_limit_s={time_limit_s:g} is too short for this metric: its reduce takes {1e3 * bootstrap_s / calls:.3g} "
        f"ms for {rows} rows here, and a certificate needs it {calls} times for each of two networks, which takes "
        f"{ANSWERS * bootstrap_s:.0f} s. Allow at least {math.ceil(ROOMY_BOOTSTRAPS * bootstrap_s)} s, or make reduce "
        "faster."
    )
