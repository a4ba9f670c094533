"""What a run does once before it searches: check the task, export the original, probe the backends, split the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from paring import __version__
from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.probe import Probe, probe
from paring.certify import rows_needed, smallest_certifiable_drop
from paring.data.batches import sample
from paring.data.checks import check_task
from paring.data.job import Job
from paring.data.rows import Rows
from paring.data.split import SELECTION_SHARE, Splits, split_rows
from paring.errors import BackendError, BudgetError, TaskError
from paring.flow.folder import RunFolder
from paring.flow.networks import Networks
from paring.flow.paired import Scorer
from paring.flow.request import Request
from paring.flow.trials import TrialRunner
from paring.graph.export import signature_of, structure_of
from paring.graph.signature import graph_signature
from paring.measure.compare import Yardstick
from paring.measure.latency import Workload
from paring.tune import Trial
from paring.types import CorpusMetric, Signature, Task

FINALISTS = 3
"""One certified early, so that a run that is cut short has an answer, and two at the end."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to search."""

    request: Request
    folder: RunFolder
    networks: Networks
    splits: Splits
    probes: tuple[Probe, ...]
    finished: list[Trial]
    original: Deployment
    workload: Workload
    smallest_certifiable_drop: float

    @property
    def signature(self) -> Signature:
        """How the network is called."""
        return self.networks.signature

    @property
    def unavailable(self) -> dict[str, str]:
        """Backend -> why it does not work here."""
        return {found.name: found.reason for found in self.probes if found.reason is not None}

    def usable_backends(self) -> tuple[Backend | type[Backend], ...]:
        """Those that were asked for and work; a task that is a graph leaves out those that need a module."""
        graph_only = isinstance(self.request.task.model, Path)
        return tuple(
            backend
            for backend in self.request.all_backends()
            if backend.name not in self.unavailable and not (graph_only and backend.format != "onnx")
        )

    def scorer(self, rows: Rows) -> Scorer:
        """Scores on a split."""
        return Scorer(self.request.task, self.signature, rows)

    @contextmanager
    def runner(self) -> Iterator[TrialRunner]:
        """What runs candidates, with the original in a process beside it."""
        threads = self.request.thread_count
        scorer = self.scorer(self.splits.selection)
        with IsolatedSession.of(self.original, threads=threads) as session:
            scores = scorer.scores(session)
        with Yardstick(self.original, self.workload, seed=self.request.seed) as yardstick:
            yield TrialRunner(
                networks=self.networks,
                scorer=scorer,
                original_scores=scores,
                yardstick=yardstick,
                reference=str(self.original.backend),
                budget=self.request.budget,
                threads=threads,
                unavailable=self.unavailable,
            )


def prepare(request: Request, folder: RunFolder, job: Job) -> Prepared:
    """Check and set up. Raises TaskError, BudgetError, ExportError or OutputError, each in one sentence."""
    signature = task_signature(request.task)
    splits = split_rows(request.task, folder.trials / "data", signature.input_names, request.seed)
    smallest = check_certifiable(request, len(splits.certification))
    identity = request.identity(__version__, splits.selection.digest() + splits.certification.digest())
    finished = folder.resume(identity)
    networks = Networks(job, signature, folder.trials)
    probes = probe([b if isinstance(b, type) else type(b) for b in request.all_backends()])
    inputs = timing_inputs(splits.selection, request.budget.batch_size, folder.trials / "data" / "timing")
    return Prepared(
        request=request,
        folder=folder,
        networks=networks,
        splits=splits,
        probes=probes,
        finished=finished,
        original=_reference(request, networks, probes),
        workload=Workload(inputs, request.budget.batch_size, request.thread_count),
        smallest_certifiable_drop=smallest,
    )


def task_signature(task: Task) -> Signature:
    """How the task's network is called, once the task has passed its checks."""
    inputs, _ = sample(task.evaluate)
    if not isinstance(task.model, Path):
        check_task(task, task.model)
        return signature_of(task.model, inputs)
    try:
        graph = onnx.load(task.model, load_external_data=False).graph
    except Exception as error:
        raise TaskError(f"{task.model} is not an ONNX graph: {error}") from error
    return graph_signature(graph, structure_of(inputs))


def check_certifiable(request: Request, rows: int) -> float:
    """The smallest drop that so many rows can certify. Raises BudgetError where the budget asks for less."""
    budget, task = request.budget, request.task
    if isinstance(task.metric, CorpusMetric):
        return 0.0
    smallest = smallest_certifiable_drop(rows, budget.confidence, FINALISTS, task.score_range)
    if smallest > budget.max_drop > 0:
        needed = rows_needed(budget.max_drop, budget.confidence, FINALISTS, task.score_range)
        raise BudgetError(
            f"max_drop={budget.max_drop:g} can't be certified with {rows} rows: the smallest drop that they can "
            f"certify is {smallest:.4f}. Give evaluate at least {round(needed / (1 - SELECTION_SHARE)) + 1} rows, "
            "or allow a larger drop."
        )
    return smallest


def timing_inputs(rows: Rows, batch_size: int, folder: Path) -> dict[str, Path]:
    """One batch of real rows on disk, repeated where the split has fewer."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, array in rows.inputs.items():
        files[name] = folder / f"input-{name}.npy"
        np.save(files[name], array[np.arange(batch_size) % len(rows)], allow_pickle=False)
    return files


def _reference(request: Request, networks: Networks, probes: tuple[Probe, ...]) -> Deployment:
    """The original on the first backend that works: what every trial is compared with."""
    working = {found.name for found in probes if found.works}
    graph_only = isinstance(request.task.model, Path)
    for backend in request.all_backends():
        if backend.name not in working or (graph_only and backend.format != "onnx"):
            continue
        default = backend if isinstance(backend, Backend) else next(backend.variants(request.budget, 1), None)
        if default is not None:
            return Deployment(default, networks.exported((), default) / NETWORK_FILES[default.format])
    reasons = "; ".join(f"{found.name}: {found.reason}" for found in probes if not found.works)
    raise BackendError(f"no backend can run this network ({reasons or 'none was given'}): see `paring doctor`.")
