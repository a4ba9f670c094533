"""Running one candidate: build it, time it in turn with the reference, score it on growing slices of rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np

from paring.artifact.packed import leaves_out
from paring.backends.isolated import Deployment, IsolatedSession
from paring.data.job import Job
from paring.errors import (
    BackendError,
    DataError,
    OutputError,
    ParingError,
    TechniqueError,
    TimeUpError,
    TrainDataError,
    disk_refused,
)
from paring.flow.networks import BrokenError, Built, Networks, NothingChangedError
from paring.flow.paired import Scorer
from paring.measure.agreement import neighbour_effect
from paring.measure.latency import Latency
from paring.measure.size import network_size_bytes
from paring.measure.yardstick import Yardstick
from paring.tune import Candidate, Speedup, Trial
from paring.tune.trial import Outcome
from paring.types import Array, Budget

FIRST_SLICE_ROWS = 256
SLICE_GROWTH = 4
COMPARISON_TIME_S = 1.0
STOP_ERRORS = 3.0
"""A candidate is given up once its drop lies so many standard errors above what is allowed."""

NEIGHBOUR_TOLERANCE = 0.1
"""How far a candidate's answer to a row may move with the other rows of its batch.

Integer kernels round differently for different batches, and dynamic quantization takes its range over the batch: both
are admitted, since scores are taken in batches of the size that is served, with neighbours as they come. What moves
further would be certified for neighbours that its users need not have.
"""


@dataclass(frozen=True)
class TrialRunner:
    """Turns candidates into trials. Nothing that a candidate does ends the run, except an interrupt.

    Trials take turns, whichever threads they come from: they share a machine that is measured, and networks that are
    made once. One whose time is up raises TimeUpError: the job of `networks` ends with the search, `whole` with the
    run.
    """

    networks: Networks
    scorer: Scorer
    original_scores: Array
    yardstick: Yardstick
    reference: str
    budget: Budget
    threads: int
    whole: Job
    turn: Lock = field(default_factory=Lock)

    def run(self, candidate: Candidate, number: int) -> Trial:
        """The trial of a candidate."""
        with self.turn:
            if self._job(candidate).time_left_s() <= 0:
                raise TimeUpError(f"the time limit ended before {candidate} could be tried: allow more time.")
            start_s = time.monotonic()
            trial = self._outcome(candidate, number)
        return replace(trial, wall_time_s=round(time.monotonic() - start_s, 3))

    def _job(self, candidate: Candidate) -> Job:
        """The search's, or the run's for the original that all others are compared with: nothing goes without it."""
        first = not candidate.recipe and str(candidate.backend) == self.reference
        return self.whole if first else self.networks.job

    def _outcome(self, candidate: Candidate, number: int) -> Trial:
        def ended(outcome: Outcome, reason: object) -> Trial:
            return Trial.of(candidate, number, outcome, str(reason))

        if candidate.hopeless:
            return ended("skipped", candidate.hopeless)
        try:
            built = self.networks.build(candidate)
            return self._measured(Trial.of(candidate, number, "measured"), candidate, built)
        except NothingChangedError as error:
            return ended("no-change", error)
        except (OutputError, DataError, TimeUpError):
            raise  # A disk that refuses, rows that can't be used and too little time are no verdict on the candidate.
        except TrainDataError as error:
            return replace(ended("failed", error), train_at_fault=True)
        except TechniqueError as error:
            return replace(ended("failed", error), refused=not isinstance(error, BrokenError))
        except ParingError as error:
            return ended("failed", error)
        except OSError as error:
            if refused := disk_refused(error):
                raise refused from error
            return ended("failed", f"{type(error).__name__}: {error}")
        except Exception as error:  # A technique may be anybody's code: whatever it raises ends this trial alone.
            return ended("failed", f"{type(error).__name__}: {error}")

    def _measured(self, trial: Trial, candidate: Candidate, built: Built) -> Trial:
        """Speed first, as it is known within a second; then the drop, on as many rows as it takes."""
        job = self._job(candidate)
        deployment = Deployment(candidate.backend, built.network, self.scorer.signature, deadline_s=job.end_s)
        with IsolatedSession.of(deployment, threads=self.threads) as session:
            comparison = self.yardstick.compare_loaded(session, deployment, time_limit_s=COMPARISON_TIME_S)
            trial = replace(
                trial,
                coverage=built.coverage,
                size_bytes=network_size_bytes(built.network),
                sparse=leaves_out(built.network),
                peak_memory_bytes=session.peak_memory_bytes(),
                latency_ms=latency_json(comparison.candidate),
                throughput_per_s=comparison.candidate.throughput_per_s,
                speedup=Speedup(comparison.ratio, comparison.low, comparison.high),
                reference=self.reference,
            )
            self._check_rows_apart(session)
            return self._scored(trial, session, job)

    def _check_rows_apart(self, session: IsolatedSession) -> None:
        effect = neighbour_effect(session, self.scorer.rows, self.scorer.batch_size)
        if not effect <= NEIGHBOUR_TOLERANCE:
            raise BackendError(f"its answers move by {effect:.1%} when a row is run alone and not in a batch.")

    def _scored(self, trial: Trial, session: IsolatedSession, job: Job) -> Trial:
        """The trial with its drop, on no more rows than it takes to see that it is too large."""
        scores = self.original_scores[:0]
        for stop in self._slices():
            for part in self.scorer.chunks(session, len(scores), stop):
                scores = np.concatenate([scores, part])
                if len(scores) < len(self.original_scores):
                    job.check_time()
            paired = self.scorer.paired(self.original_scores, scores)
            trial = replace(trial, score=paired.score, drop=paired.drop, rows=stop, drop_deviation=paired.deviation)
            # A structure that is to be trained is judged by how much it lost: that must be known well.
            hopeless = trial.stage != "training" and paired.certainly_above(self.budget.max_drop, STOP_ERRORS)
            if hopeless and stop < len(self.original_scores):
                reason = f"drop {paired.drop:.4f} on the first {stop} rows, {self.budget.max_drop:g} is allowed"
                return replace(trial, outcome="stopped-early", reason=reason)
        return trial

    def _slices(self) -> Iterator[int]:
        """Growing numbers of rows, up to all of the selection split."""
        stop = FIRST_SLICE_ROWS
        while stop < len(self.original_scores):
            yield stop
            stop *= SLICE_GROWTH
        yield len(self.original_scores)


def latency_json(latency: Latency) -> dict[str, float]:
    """As result files hold it."""
    return {"p50": latency.p50_ms, "p90": latency.p90_ms, "p99": latency.p99_ms}
