"""plan: what would be tried, what can't be and why; no candidate is run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paring.backends.probe import Probe, probe
from paring.data.job import Job
from paring.data.split import split_rows
from paring.flow.certifiable import Certifiable
from paring.flow.networks import Networks
from paring.flow.prepare import FINAL_SHARE, task_signature
from paring.flow.request import Request
from paring.techniques.base import described
from paring.tune import Candidate, Ranking, Scene
from paring.tune.post_training import first_baselines, first_techniques, other_baselines
from paring.tune.training import Training

TRIAL_S = 4.0
"""What a trial of a small network takes beside building it: two processes, a second of timing, scores."""


def make_plan(request: Request) -> dict[str, Any]:
    """The candidates that are known beforehand, what can't be tried and why, and how long it would take.

    What comes after them depends on what they show: more settings around the leaders, then, with training data,
    structures that are pruned and trained for as long as the time limit allows. Raises BudgetError where the rows of
    `evaluate` can't certify the budget.
    """
    begin_s = time.monotonic()
    certifiable = _certifiable(request)
    probes = probe(request.all_backends())
    unusable = request.unusable(probes)
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        scene = _scene(request, probes, Path(folder))
        build_s = time.monotonic() - begin_s
        stages = (first_baselines(scene), first_techniques(scene), other_baselines(scene))
        known = {candidate.key: candidate for stage in stages for asked in stage for candidate in asked}
        training = Training(scene, {}, ())
        structures = training.structures() if training.trainer and request.task.train is not None else ()
    trained = [{"stage": "training", "recipe": described(s), "backend": "the best so far"} for s in structures]
    not_tried = unusable | scene.not_tried
    time_told = _time_told(len(known), build_s, request.time_limit_s, training=bool(trained))
    return {
        "tried": [_row(candidate) for candidate in known.values()] + trained,
        "not_tried": [{"what": what, "reason": reason} for what, reason in not_tried.items()],
        "notes": [f"{certifiable.told}.", time_told],
    }


def _certifiable(request: Request) -> Certifiable:
    """What the rows could certify, were the original's scores all right or wrong: no network is run."""
    names = task_signature(request.task).input_names
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        rows = len(split_rows(request.task, Path(folder) / "data", names, request.seed).certification)
    certifiable = Certifiable.of(request.task, request.budget, rows, FINAL_SHARE)
    certifiable.check()
    return certifiable


def _scene(request: Request, probes: Sequence[Probe], folder: Path) -> Scene:
    """What a search of the request would know as it begins."""
    model = request.task.model
    job = Job.of(request.task, seed=request.seed, threads=request.thread_count)
    return Scene(
        budget=request.budget,
        ranking=Ranking(request.budget, 1, request.budget.confidence),
        job=job,
        model=None if isinstance(model, Path) else model,
        graph=Networks(job, task_signature(request.task), folder).original_graph(),
        techniques=request.all_techniques(),
        backends=request.usable_backends(request.unusable(probes)),
        threads=request.thread_count,
        time_left_s=lambda: request.time_limit_s,
        precisions={found.name: found.precisions for found in probes},
    )


def _row(candidate: Candidate) -> dict[str, str]:
    return {
        "stage": candidate.stage,
        "recipe": described(candidate.recipe),
        "backend": str(candidate.backend),
    }


def _time_told(trials: int, build_s: float, time_limit_s: float, *, training: bool) -> str:
    least = f"about {round(build_s + TRIAL_S * trials)} s"
    if training:
        return (
            f"The {trials} trials without training take {least}; the time limit is {time_limit_s:g} s, and training "
            "takes what is left of it."
        )
    return (
        f"These {trials} trials take {least}; then come more settings around the best, within the time limit of "
        f"{time_limit_s:g} s."
    )
