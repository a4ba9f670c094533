"""The original as it is exported: it must answer as the user's network does; its scores are what others are held to."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from paring.backends.base import NETWORK_FILES, Backend, called
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.probe import Probe
from paring.data.batches import model_call
from paring.data.rows import Rows
from paring.data.split import Splits
from paring.errors import BackendError, BudgetError, ExportError, TaskError, TimeUpError
from paring.flow.networks import Networks
from paring.flow.pace import Pace, bootstrap_time, check_bootstraps, check_limit
from paring.flow.paired import Scorer
from paring.flow.request import Request
from paring.measure.agreement import COMPARED_ROWS, answers, neighbour_effect, relative_error
from paring.tune.proposing import offered
from paring.types import Array, Arrays, Signature, named, restructured

EXPORT_TOLERANCE = 0.01
"""How far the exported network may answer from the module, relative to the size of its answers."""

ORIGINAL_NEIGHBOUR_TOLERANCE = 0.01
"""How far the original's answer to a row may move with the other rows of its batch: float kernels stay far below."""

Found = TypeVar("Found")


def reference(
    request: Request, networks: Networks, probes: tuple[Probe, ...], splits: Splits, *, resumed: bool
) -> tuple[Deployment, Array, Pace]:
    """The original on the first backend that runs it, its scores on the selection rows, and what they took.

    Raises BudgetError as soon as it is known that the limit can't hold the answers to all rows, or what is computed
    from them. A run that is resumed has found before that it can.
    """
    rows, certified = splits.selection, len(splits.certification)
    scorer = Scorer(request.task, networks.signature, rows, request.budget.batch_size)
    due = 0 if resumed else len(rows) + certified

    def scored(session: IsolatedSession, start_s: float) -> tuple[Array, Pace]:
        _check_export(request, session, rows, networks.signature)
        _check_rows_apart(session, rows, request.budget.batch_size)
        begin_s = time.monotonic()
        scores = scorer.scores(session, lambda row_s, _: check_limit(request.time_limit_s, due, row_s))
        row_s = (time.monotonic() - begin_s) / len(scores)
        bootstrap_s = bootstrap_time(request.task, scores, certified)
        if not resumed:
            check_bootstraps(request.time_limit_s, certified, bootstrap_s)
        scorer.paired(scores, scores)  # A CorpusMetric may fail on the parts of the rows that it will be given.
        return scores, Pace(start_s, row_s, bootstrap_s)

    original, (scores, pace) = on_first_backend(request, networks, probes, scored)
    return original, scores, pace


def pace_of(request: Request, networks: Networks, probes: tuple[Probe, ...], splits: Splits) -> Pace:
    """What the original's answers take, by as few rows as tell it; 0 a row where all of them take next to none.

    Raises BudgetError where the limit can't hold the answers to all rows.
    """
    rows, certified = splits.selection, len(splits.certification)
    scorer = Scorer(request.task, networks.signature, rows, request.budget.batch_size)

    def timed(session: IsolatedSession, start_s: float) -> Pace:
        parts: list[Array] = []
        row_s: float | None = None
        for part, row_s in scorer.paced(session):
            parts.append(part)
            if row_s is not None:
                break
        return Pace(start_s, row_s or 0.0, bootstrap_time(request.task, np.concatenate(parts), certified))

    _, pace = on_first_backend(request, networks, probes, timed)
    check_limit(request.time_limit_s, len(rows) + certified, pace.row_s)
    check_bootstraps(request.time_limit_s, certified, pace.bootstrap_s)
    return pace


def on_first_backend(
    request: Request, networks: Networks, probes: tuple[Probe, ...], use: Callable[[IsolatedSession, float], Found]
) -> tuple[Deployment, Found]:
    """The original on the first backend that runs it, and what `use` found with it there.

    `use` is given the session and the seconds until it was loaded. Raises BackendError where none runs it, and
    BudgetError where the time ends meanwhile.
    """
    reasons = request.unusable(probes)
    for backend in request.usable_backends(reasons.copy()):
        for_one_thread = partial(backend.variants, request.budget, 1)
        variants = [backend] if isinstance(backend, Backend) else offered(backend.name, for_one_thread, reasons)
        if not variants:
            continue
        network = networks.exported((), variants[0]) / NETWORK_FILES[variants[0].format]
        deployment = Deployment(variants[0], network, networks.signature, deadline_s=networks.job.end_s)
        begin_s = time.monotonic()
        try:
            with IsolatedSession.of(deployment, threads=request.thread_count) as session:
                return deployment, use(session, time.monotonic() - begin_s)
        except BackendError as error:
            reasons[called(backend)] = str(error)
        except TimeUpError as error:
            raise BudgetError(
                f"time_limit_s={request.time_limit_s:g} is too short for the original: {error}"
            ) from error
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "none was given"
    raise BackendError(f"no backend can run this network ({told}): see `paring doctor`.")


def _check_export(request: Request, session: IsolatedSession, rows: Rows, signature: Signature) -> None:
    """The exported network answers as the user's module does. Raises ExportError: all that follows rests on it."""
    model, batch_size = request.task.model, request.budget.batch_size
    if isinstance(model, Path):
        return
    count = min(COMPARED_ROWS, len(rows))
    wanted = _module_answers(model, rows, count, batch_size, signature)
    found = answers(session, rows.input_files, count, batch_size)
    for name, right in wanted.items():
        error = relative_error(found, {name: right})
        if not error <= EXPORT_TOLERANCE:
            raise ExportError(
                f"the exported network answers differently from the module: {name!r} is off by {error:.1%}. "
                "Look for operations whose result depends on the number of rows, or that the exporter gets wrong."
            )


def _module_answers(model: nn.Module, rows: Rows, count: int, batch_size: int, signature: Signature) -> Arrays:
    """The module's outputs for the first rows, in batches of the size that is served, the last one filled up."""
    parts = []
    for start in range(0, count, batch_size):
        picked = np.arange(start, start + batch_size) % len(rows)
        tensors = {name: torch.from_numpy(array[picked]) for name, array in rows.inputs.items()}
        with torch.inference_mode():
            outputs = model_call(model, restructured(tensors, signature.input_structure))
        parts.append({name: _array(tensor) for name, tensor in named(outputs, signature.output_names).items()})
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _array(tensor: torch.Tensor) -> Array:
    """In NumPy, which knows no bfloat16."""
    array: Array = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return array


def _check_rows_apart(session: IsolatedSession, rows: Rows, batch_size: int) -> None:
    """Raise TaskError where the answer to a row depends on its neighbours: a score would hold for one order alone."""
    effect = neighbour_effect(session, rows, batch_size)
    if not effect <= ORIGINAL_NEIGHBOUR_TOLERANCE:
        raise TaskError(
            f"the network's answers move by {effect:.1%} when a row is run alone and not in a batch: let no operation "
            "mix the rows of a batch (softmax, mean, sort or ranges over axis 0; batch normalisation in train mode)."
        )
