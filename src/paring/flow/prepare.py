"""What a run does once before it searches: check the task, export the original, probe the backends, split the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from paring import __version__
from paring.artifact.files import write_array
from paring.backends.base import Backend
from paring.backends.isolated import Deployment
from paring.backends.probe import PROBE_LIMIT_S, Probe, probe
from paring.data.batches import sample
from paring.data.checks import check_all_labels, check_graph_inputs, check_task
from paring.data.job import Job
from paring.data.rows import Rows
from paring.data.split import Shown, Splits, split_rows
from paring.errors import TaskError
from paring.flow.certifiable import Certifiable
from paring.flow.clock import RunClock
from paring.flow.folder import RunFolder
from paring.flow.identity import identity
from paring.flow.ledger import FINAL_SHARE, Ledger
from paring.flow.networks import Networks
from paring.flow.pace import Pace
from paring.flow.paired import Scorer
from paring.flow.reference import reference
from paring.flow.request import Request
from paring.flow.trials import TrialRunner
from paring.graph.export import signature_of, structure_of
from paring.graph.quantized import told_quantized
from paring.graph.signature import graph_signature, read_graph, settle_inputs_
from paring.measure.latency import Workload
from paring.measure.yardstick import Yardstick
from paring.report.progress import Progress
from paring.tune import Ranking, Trial
from paring.types import Array, Signature, Task

PROBING_SHARE = 0.5
"""Of the limit, for what probes may take: a runtime that hangs in its probe leaves the time for the others."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to search. `original_scores` are those of the selection rows.

    `job` ends with the search, and the job of `networks` with the run: a finalist is made again where it must be.
    `ledger` is what looks at the certification rows had cost before, `pace` tells what looks take, `not_tried` what is
    not proposed or had no time, with the reason.
    """

    request: Request
    folder: RunFolder
    clock: RunClock
    job: Job
    networks: Networks
    splits: Splits
    probes: tuple[Probe, ...]
    ledger: Ledger
    finished: list[Trial]
    original: Deployment
    original_scores: Array
    pace: Pace
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
                whole=self.networks.job,
            )
            try:
                yield runner
            finally:
                with runner.turn:  # A trial of another thread that is still under way would disturb what follows.
                    pass


@dataclass(frozen=True)
class Begun:
    """A run whose task has passed its checks and whose folder is its own: what it saves there, it goes on from."""

    request: Request
    folder: RunFolder
    signature: Signature
    splits: Splits
    ledger: Ledger
    certifiable: Certifiable
    finished: list[Trial]


def begin(request: Request, folder: RunFolder) -> Begun:
    """Check, and take the folder. Raises TaskError, BudgetError, ExportError or OutputError, each in one sentence."""
    signature = task_signature(request.task, trains=request.trains)
    request.check_fits()
    splits = split_rows(request.task, folder.trials / "data", signature.input_names, request.seed)
    check_all_labels(request.task, signature, splits.selection, splits.certification)
    ledger = folder.ledger_at(splits.digest, fresh=not request.resume)
    certifiable = Certifiable.of(request.task, request.budget, len(splits.certification), FINAL_SHARE)
    certifiable.check()
    finished = folder.begin(identity(request, __version__, splits.digest), fresh=not request.resume)
    return Begun(request, folder, signature, splits, ledger, certifiable, finished)


def prepare(begun: Begun, clock: RunClock, told: Progress) -> Prepared:
    """Set up. Raises BudgetError, ExportError, BackendError or OutputError, each in one sentence."""
    request, folder, splits, ledger, finished = begun.request, begun.folder, begun.splits, begun.ledger, begun.finished
    # Whatever a technique does with its job, it sees no certification row.
    shown = replace(request.task, evaluate=Shown(splits.selection, begun.signature))
    job = Job.of(shown, seed=request.seed, threads=request.thread_count)
    job = replace(job, say=told.say, measured=folder.measured)
    networks = Networks(replace(job, deadline_s=clock.deadline_s), begun.signature, folder.trials)
    probes = probe(request.all_backends(), time_limit_s=min(PROBE_LIMIT_S, PROBING_SHARE * request.time_limit_s))
    told.say(f"scores of the original on {len(splits.selection)} rows")
    original, scores, measured = reference(request, networks, probes, splits, resumed=bool(finished))
    pace = folder.pace(measured)
    clock.reserve(pace.look_s(len(splits.certification)), pace.start_s)
    clock.resume([trial.elapsed_s for trial in finished], [look.elapsed_s for look in ledger.looks])
    certifiable = begun.certifiable.knowing(scores)
    certifiable.check()
    told.note(certifiable.told)
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
        ledger=ledger,
        finished=finished,
        original=replace(original, deadline_s=clock.deadline_s),
        original_scores=scores,
        pace=pace,
        workload=Workload(inputs, request.budget.batch_size, request.thread_count),
        smallest_certifiable_drop=certifiable.smallest_drop,
    )


def task_signature(task: Task, *, trains: bool = True) -> Signature:
    """How the task's network is called, once the task has passed its checks: those of its loss if anything `trains`."""
    inputs, _ = sample(task.evaluate, "evaluate")
    if not isinstance(task.model, Path):
        if told := told_quantized(task.model):
            raise TaskError(told)
        signature = signature_of(task.model, inputs)
        check_task(task, task.model, trains=trains)
        return signature
    graph = read_graph(task.model)
    settle_inputs_(graph, inputs if isinstance(inputs, dict) else ())
    signature = graph_signature(graph, structure_of(inputs))
    check_graph_inputs(task.model, signature, inputs)
    return signature


def timing_inputs(rows: Rows, batch_size: int, folder: Path) -> dict[str, Path]:
    """One batch of real rows on disk, repeated where the split has fewer."""
    return {
        name: write_array(folder / f"input-{number}.npy", array[np.arange(batch_size) % len(rows)])
        for number, (name, array) in enumerate(rows.inputs.items())
    }
