"""What a run does once before it searches: check the task, export the original, probe the backends, split the rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from paring import __version__
from paring.artifact.files import write_array
from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.probe import Probe, probe
from paring.certify import Method, rows_needed, smallest_certifiable_drop
from paring.data.batches import CALIBRATION_ROWS, calibration_batches, model_call, sample
from paring.data.checks import check_all_labels, check_graph_inputs, check_task
from paring.data.job import Job
from paring.data.rows import Rows
from paring.data.split import SELECTION_SHARE, Splits, split_rows
from paring.errors import BackendError, BudgetError, ExportError, TaskError
from paring.flow.clock import RunClock
from paring.flow.folder import RunFolder
from paring.flow.identity import identity
from paring.flow.networks import Networks
from paring.flow.paired import Scorer
from paring.flow.request import Request
from paring.flow.trials import TrialRunner
from paring.graph.export import signature_of, structure_of
from paring.graph.signature import graph_signature, read_graph
from paring.measure.agreement import COMPARED_ROWS, neighbour_effect, relative_error
from paring.measure.compare import Yardstick
from paring.measure.latency import Workload
from paring.ops.scores import accuracy
from paring.report.progress import Progress
from paring.tune import Ranking, Trial
from paring.types import Array, Batch, Signature, Task, named, restructured

FINALISTS = 3
"""One certified early, so that a run that is cut short has an answer, and two at the end."""

EARLY_SHARE = 0.1
FINAL_SHARE = 0.6
LAST_SHARE = 0.3
"""Of what may go wrong (1 - confidence): an early look and two final ones, of which the first is the most ambitious."""

LOOKS = 3
"""At the certification rows when the search is over: of the original and of two finalists."""

OBSERVED_BATCH = 64
EXPORT_TOLERANCE = 0.01
"""How far the exported network may answer from the module, relative to the size of its answers."""

NEIGHBOUR_TOLERANCE = 0.01
"""How far the original's answer to a row may move with the other rows of its batch: float kernels stay far below."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to search. `original_scores` are those of the selection rows.

    `job` ends with the search, and the job of `networks` with the run: a finalist is made again where it must be.
    `not_tried` gathers what the search does not propose, with the reason.
    """

    request: Request
    folder: RunFolder
    clock: RunClock
    job: Job
    networks: Networks
    splits: Splits
    probes: tuple[Probe, ...]
    finished: list[Trial]
    original: Deployment
    original_scores: Array
    workload: Workload
    smallest_certifiable_drop: float
    not_tried: dict[str, str] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """How the network is called."""
        return self.networks.signature

    @property
    def unavailable(self) -> dict[str, str]:
        """Backend -> why it can't run the network here."""
        return self.request.unusable(self.probes)

    def usable_backends(self) -> tuple[Backend | type[Backend], ...]:
        """Those that were asked for and can run it."""
        return self.request.usable_backends(self.unavailable)

    def scorer(self, rows: Rows) -> Scorer:
        """Scores on a split."""
        return Scorer(self.request.task, self.signature, rows, self.request.budget.batch_size)

    def ranking(self) -> Ranking:
        """The order of trials under the budget, with what a final look will ask of them."""
        low, high = self.request.task.score_range
        risk = (1 - self.request.budget.confidence) * FINAL_SHARE
        return Ranking(self.request.budget, len(self.splits.certification), 1 - risk, high - low)

    @contextmanager
    def runner(self) -> Iterator[TrialRunner]:
        """What runs candidates, with the original in a process beside it."""
        with Yardstick(self.original, self.workload, seed=self.request.seed) as yardstick:
            runner = TrialRunner(
                networks=replace(self.networks, job=self.job),
                scorer=self.scorer(self.splits.selection),
                original_scores=self.original_scores,
                yardstick=yardstick,
                reference=str(self.original.backend),
                budget=self.request.budget,
                threads=self.request.thread_count,
                unavailable=self.unavailable,
            )
            try:
                yield runner
            finally:
                with runner.turn:  # A trial of another thread that is still under way would disturb what follows.
                    pass


def prepare(request: Request, folder: RunFolder, clock: RunClock, told: Progress) -> Prepared:
    """Check and set up. Raises TaskError, BudgetError, ExportError or OutputError, each in one sentence."""
    signature = task_signature(request.task)
    splits = split_rows(request.task, folder.trials / "data", signature.input_names, request.seed)
    check_all_labels(request.task, signature, splits.selection, splits.certification)
    smallest = check_certifiable(request, len(splits.certification))
    told.note(f"{len(splits.certification)} rows can certify a drop of {smallest:.4f} at best")
    finished = folder.resume(identity(request, __version__, splits.digest))
    clock.resume(max((trial.elapsed_s for trial in finished), default=0.0))
    job = Job(
        request.task,
        observed_batches(request.task, splits.selection, signature),
        seed=request.seed,
        threads=request.thread_count,
        say=told.say,
    )
    networks = Networks(job, signature, folder.trials)
    probes = probe(request.all_backends())
    original, scores, row_s = _reference(request, networks, probes, splits.selection)
    clock.reserve_looks(LOOKS * len(splits.certification) * folder.row_time(row_s))
    job = replace(job, deadline_s=clock.search_deadline_s, grace_s=clock.grace_s)
    inputs = timing_inputs(splits.selection, request.budget.batch_size, folder.trials / "data" / "timing")
    return Prepared(
        request=request,
        folder=folder,
        clock=clock,
        job=job,
        networks=replace(networks, job=replace(job, deadline_s=clock.deadline_s, grace_s=0.0)),
        splits=splits,
        probes=probes,
        finished=finished,
        original=original,
        original_scores=scores,
        workload=Workload(inputs, request.budget.batch_size, request.thread_count),
        smallest_certifiable_drop=smallest,
    )


def observed_batches(task: Task, selection: Rows, signature: Signature) -> tuple[Batch, ...]:
    """What techniques may observe: the task's own data for it, else rows of the selection split; never the others."""
    if task.calibrate is not None or task.train is not None:
        return calibration_batches(task)
    batches = []
    for arrays, targets in islice(selection.batches(OBSERVED_BATCH), CALIBRATION_ROWS // OBSERVED_BATCH):
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        batches.append((restructured(tensors, signature.input_structure), targets))
    return tuple(batches)


def task_signature(task: Task) -> Signature:
    """How the task's network is called, once the task has passed its checks."""
    inputs, _ = sample(task.evaluate, "evaluate")
    if not isinstance(task.model, Path):
        signature = signature_of(task.model, inputs)
        check_task(task, task.model)
        return signature
    signature = graph_signature(read_graph(task.model), structure_of(inputs))
    check_graph_inputs(task.model, signature, inputs)
    return signature


def check_certifiable(request: Request, rows: int) -> float:
    """The smallest drop that so many rows can certify. Raises BudgetError where the budget asks for less."""
    budget, task = request.budget, request.task
    confidence = 1 - (1 - budget.confidence) * FINAL_SHARE
    method: Method = "exact" if task.metric is accuracy else "betting"
    smallest = smallest_certifiable_drop(rows, confidence, 1, task.score_range, method)
    if smallest > budget.max_drop > 0:
        needed = rows_needed(budget.max_drop, confidence, 1, task.score_range, method)
        raise BudgetError(
            f"max_drop={budget.max_drop:g} can't be certified with {rows} rows: the smallest drop that they can "
            f"certify is {smallest:.4f}. Give evaluate at least {round(needed / (1 - SELECTION_SHARE)) + 1} rows, "
            "or allow a larger drop."
        )
    return smallest


def timing_inputs(rows: Rows, batch_size: int, folder: Path) -> dict[str, Path]:
    """One batch of real rows on disk, repeated where the split has fewer."""
    return {
        name: write_array(folder / f"input-{number}.npy", array[np.arange(batch_size) % len(rows)])
        for number, (name, array) in enumerate(rows.inputs.items())
    }


def _reference(
    request: Request, networks: Networks, probes: tuple[Probe, ...], selection: Rows
) -> tuple[Deployment, Array, float]:
    """The original on the first backend that runs it, its scores on the selection rows, and the seconds of a row."""
    reasons = request.unusable(probes)
    for backend in request.usable_backends(reasons.copy()):
        default = backend if isinstance(backend, Backend) else next(backend.variants(request.budget, 1), None)
        if default is None:
            continue
        deployment = Deployment(default, networks.exported((), default) / NETWORK_FILES[default.format])
        try:
            with IsolatedSession.of(deployment, threads=request.thread_count) as session:
                _check_export(request.task, session, selection, networks.signature)
                _check_rows_apart(session, selection, request.budget.batch_size)
                scorer = Scorer(request.task, networks.signature, selection, request.budget.batch_size)
                begin_s = time.monotonic()
                scores = _original_scores(scorer, session)
                return deployment, scores, (time.monotonic() - begin_s) / len(scores)
        except BackendError as error:
            reasons[backend.name] = str(error)
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "none was given"
    raise BackendError(f"no backend can run this network ({told}): see `paring doctor`.")


def _original_scores(scorer: Scorer, session: IsolatedSession) -> Array:
    """Raises TaskError also where a CorpusMetric fails on the parts of the rows that a comparison will look at."""
    scores = scorer.scores(session)
    scorer.paired(scores, scores)
    return scores


def _check_export(task: Task, session: IsolatedSession, rows: Rows, signature: Signature) -> None:
    """The exported network answers as the user's module does. Raises ExportError: all that follows rests on it."""
    if isinstance(task.model, Path):
        return
    arrays, _ = rows.take(0, min(COMPARED_ROWS, len(rows)))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.inference_mode():
        wanted = model_call(task.model, restructured(tensors, signature.input_structure))
    found = session.run(arrays)
    for name, tensor in named(wanted, signature.output_names).items():
        error = relative_error(found, {name: tensor.double().numpy()})
        if not error <= EXPORT_TOLERANCE:
            raise ExportError(
                f"the exported network answers differently from the module: {name!r} is off by {error:.1%}. "
                "Look for operations whose result depends on the number of rows, or that the exporter gets wrong."
            )


def _check_rows_apart(session: IsolatedSession, rows: Rows, batch_size: int) -> None:
    """Raise TaskError where the answer to a row depends on its neighbours: a score would hold for one order alone."""
    effect = neighbour_effect(session, rows, batch_size)
    if not effect <= NEIGHBOUR_TOLERANCE:
        raise TaskError(
            f"the network's answers move by {effect:.1%} when a row is run alone and not in a batch: let no operation "
            "mix the rows of a batch (softmax, mean, sort or ranges over axis 0; batch normalisation in train mode)."
        )
