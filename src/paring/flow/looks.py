"""What networks show on the certification rows, on disk as soon as it is known: scores, and those of a bootstrap."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paring.artifact.files import write_array
from paring.backends.isolated import Deployment, IsolatedSession
from paring.certify import Certificate, certify
from paring.certify.corpus import bootstrap_scores, bootstrap_size, certify_drops
from paring.flow.pace import clocked
from paring.flow.prepare import Prepared
from paring.types import Array, CorpusMetric

ORIGINAL = "original"
"""The name of the original; a candidate's is its key."""


class Looks:
    """What was seen of the certification rows. A look that the clock has no room for raises TimeUpError."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._folder = prepared.folder.trials / "looks"

    def bootstraps_s(self, *names: str) -> float:
        """Seconds that the bootstraps of these networks will take: of those that were not done before."""
        return self._prepared.pace.bootstrap_s * sum(not self._bootstrap_file(name).is_file() for name in names)

    def score(self, name: str, deployment: Deployment, later_s: float) -> None:
        """Have a network answer the certification rows, unless it has; `later_s` is what follows before the verdict."""
        if self._file(name).is_file():
            return
        scorer = self._prepared.scorer(self._prepared.splits.certification)
        others = " and the calls of the metric's reduce" if later_s else ""

        def check(row_s: float, rows_left: int) -> None:
            self._prepared.clock.check_look(f"{rows_left} of them{others}", row_s * rows_left + later_s)

        check(0.0, len(scorer.rows))
        with IsolatedSession.of(deployment, threads=self._prepared.request.thread_count) as session:
            write_array(self._file(name), scorer.scores(session, check))

    def certificate(self, key: str, confidence: float) -> Certificate:
        """Of a candidate that has answered them, as the original has."""
        task = self._prepared.request.task
        if not isinstance(task.metric, CorpusMetric):
            scores = (_read(self._file(name)) for name in (ORIGINAL, key))
            return certify(*scores, confidence=confidence, score_range=task.score_range)
        drops = self._bootstrap(ORIGINAL, task.metric) - self._bootstrap(key, task.metric)
        rows = len(self._prepared.splits.certification)
        return certify_drops(drops, rows, confidence=confidence, score_range=task.score_range)

    def _bootstrap(self, name: str, metric: CorpusMetric) -> Array:
        """A network's scores on all rows and on resamples of them: they serve every certificate that rests on it."""
        file = self._bootstrap_file(name)
        if not file.is_file():
            statistics = _read(self._file(name))
            count = bootstrap_size(len(statistics))

            def check(each_s: float, left: int) -> None:
                self._prepared.clock.check_look(f"{left} calls of the metric's reduce", each_s * left)

            scores = clocked(bootstrap_scores(statistics, metric.reduce), count, check)
            write_array(file, np.fromiter(scores, np.float64, count))
        return _read(file)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _bootstrap_file(self, name: str) -> Path:
        return self._folder / f"{name}-bootstrap.npy"


def _read(file: Path) -> Array:
    array: Array = np.load(file, allow_pickle=False)
    return array
