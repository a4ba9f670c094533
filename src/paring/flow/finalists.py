"""Finalists: each looks once at the certification split, and is measured at length beside the original."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from paring.artifact.files import write_json
from paring.backends.isolated import Deployment, IsolatedSession
from paring.certify import Certificate, certify, certify_corpus
from paring.flow.prepare import FINALISTS, Prepared
from paring.tune import Candidate
from paring.types import Array, CorpusMetric

EARLY_SHARE = 0.1
FINAL_SHARE = 0.45
"""Of what may go wrong (1 - confidence): one early look and two final ones add up to all of it."""


@dataclass(frozen=True)
class Finalist:
    """A candidate that was looked at on the certification split."""

    key: str
    certificate: Certificate


class Finals:
    """Certifies finalists and remembers them on disk: a resumed run does not look twice."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._file = prepared.folder.trials / "finalists.json"
        self._seen = self._read()

    @property
    def seen(self) -> tuple[Finalist, ...]:
        """All finalists so far, in the order of their looks."""
        return tuple(self._seen.values())

    def certified(self) -> tuple[Finalist, ...]:
        """Those that hold the budget."""
        allowed = self._prepared.request.budget.max_drop
        return tuple(finalist for finalist in self.seen if finalist.certificate.meets(allowed))

    def certify(self, candidate: Candidate, share: float) -> Finalist:
        """Look at the certification split, spending `share` of what may go wrong; the same answer for a second look."""
        if candidate.key not in self._seen:
            finalist = Finalist(candidate.key, self._certificate(self.deployment(candidate), share))
            self._seen[candidate.key] = finalist
            write_json(
                self._file, [{"key": f.key, "certificate": f.certificate.to_json()} for f in self._seen.values()]
            )
        return self._seen[candidate.key]

    def deployment(self, candidate: Candidate) -> Deployment:
        """The candidate's network in its backend."""
        return Deployment(candidate.backend, self._prepared.networks.build(candidate).network)

    @cached_property
    def _original_scores(self) -> Array:
        return self._scores(self._prepared.original)

    def _scores(self, deployment: Deployment) -> Array:
        scorer = self._prepared.scorer(self._prepared.splits.certification)
        with IsolatedSession.of(deployment, threads=self._prepared.request.thread_count) as session:
            return scorer.scores(session)

    def _certificate(self, deployment: Deployment, share: float) -> Certificate:
        request = self._prepared.request
        scores = self._scores(deployment)
        risk = (1 - request.budget.confidence) * share
        arguments = {"confidence": 1 - risk, "score_range": request.task.score_range}
        if isinstance(request.task.metric, CorpusMetric):
            reduce = request.task.metric.reduce
            found = certify_corpus(self._original_scores, scores, reduce, **arguments)  # type: ignore[arg-type]
        else:
            found = certify(self._original_scores, scores, **arguments)  # type: ignore[arg-type]
        return replace(found, confidence=request.budget.confidence, finalists=FINALISTS)

    def _read(self) -> dict[str, Finalist]:
        if not self._file.is_file():
            return {}
        rows: list[dict[str, Any]] = json.loads(self._file.read_text(encoding="utf-8"))
        return {row["key"]: Finalist(row["key"], Certificate.from_json(row["certificate"])) for row in rows}
