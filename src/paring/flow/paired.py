"""A candidate's scores beside the original's, on the same rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from paring.backends.isolated import IsolatedSession
from paring.data.rows import Rows
from paring.measure.scores import score_chunks
from paring.ops.scores import corpus_score
from paring.types import Array, CorpusMetric, Signature, Task

JACKKNIFE_GROUPS = 20

KNOWN_S = 1.0
"""Rows that took so long tell how long the others will take."""

Check: TypeAlias = Callable[[float, int], None]
"""Is told the seconds that a row takes and how many are left; it raises where they take too long."""


@dataclass(frozen=True)
class Paired:
    """The drop on so many rows: `deviation` is that of one row's paired difference."""

    score: float
    drop: float
    deviation: float
    rows: int

    def certainly_above(self, allowed: float, errors: float) -> bool:
        """Whether the drop lies more than so many standard errors above what is allowed."""
        return self.drop - errors * self.deviation / math.sqrt(self.rows) > allowed


@dataclass(frozen=True)
class Scorer:
    """The task's metric on a split, as a network in another process answers it in batches of the size that is served.

    Runtimes choose plans and kernels by the size of a batch, and some quantize by its range: a score at another size
    would be that of something which nobody will run.
    """

    task: Task
    signature: Signature
    rows: Rows
    batch_size: int

    def chunks(self, session: IsolatedSession, start: int = 0, stop: int | None = None) -> Iterator[Array]:
        """The scores in pieces that take a few seconds each."""
        return score_chunks(
            session, self.rows, self.task, self.signature, start=start, stop=stop, batch_size=self.batch_size
        )

    def paced(self, session: IsolatedSession) -> Iterator[tuple[Array, float | None]]:
        """The scores of all rows in pieces, each with the seconds that a row takes, None until that is known.

        The first piece does not tell: runtimes and metrics have things to do once.
        """
        chunks = self.chunks(session)
        yield next(chunks), None
        timed, begin_s = 0, time.monotonic()
        for part in chunks:
            timed += len(part)
            took_s = time.monotonic() - begin_s
            yield part, took_s / timed if took_s >= KNOWN_S else None

    def scores(self, session: IsolatedSession, check: Check | None = None) -> Array:
        """(rows,) scores, or (rows, k) statistics of a CorpusMetric; between the pieces `check` may end it."""
        parts, left = [], len(self.rows)
        for part, row_s in self.paced(session):
            parts.append(part)
            left -= len(part)
            if check and row_s is not None:
                check(row_s, left)
        return np.concatenate(parts)

    def paired(self, original: Array, candidate: Array) -> Paired:
        """Compare the first rows of the original with as many of the candidate."""
        original = original[: len(candidate)]
        if isinstance(self.task.metric, CorpusMetric):
            return _corpus_paired(self.task.metric, original, candidate)
        differences = original - candidate
        deviation = float(differences.std())
        return Paired(float(candidate.mean()), float(differences.mean()), deviation, len(candidate))


def _corpus_paired(metric: CorpusMetric, original: Array, candidate: Array) -> Paired:
    """The drop of a score over the whole corpus, its deviation by a grouped jackknife."""
    rows = len(candidate)
    groups = np.arange(rows) % min(JACKKNIFE_GROUPS, rows)
    kept = [groups != group for group in range(groups.max() + 1)]
    without = np.array([_corpus_drop(metric, original[k], candidate[k]) for k in kept if k.any()])
    error = math.sqrt((len(without) - 1) * without.var()) if len(without) > 1 else 0.0
    drop = _corpus_drop(metric, original, candidate)
    return Paired(corpus_score(metric.reduce, candidate), drop, error * math.sqrt(rows), rows)


def _corpus_drop(metric: CorpusMetric, original: Array, candidate: Array) -> float:
    return corpus_score(metric.reduce, original) - corpus_score(metric.reduce, candidate)
