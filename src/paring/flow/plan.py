"""plan: what would be tried, what can't be and why; no candidate is run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from paring.backends.probe import probe
from paring.data.job import Job
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
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
    structures that are pruned and trained for as long as the time limit allows.
    """
    begin_s = time.monotonic()
    probes = probe(request.all_backends())
    broken = {found.name: found.reason for found in probes if found.reason is not None}
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        job = Job.of(request.task, seed=request.seed, threads=request.thread_count)
        networks = Networks(job, task_signature(request.task), Path(folder))
        graph = networks.original_graph()
        build_s = time.monotonic() - begin_s
        model = None if isinstance(request.task.model, Path) else request.task.model
        scene = Scene(
            budget=request.budget,
            ranking=Ranking(request.budget, 1, 0.95),
            job=job,
            model=model,
            graph=graph,
            techniques=request.all_techniques(),
            backends=tuple(b for b in request.all_backends() if b.name not in broken and (model or b.format == "onnx")),
            threads=request.thread_count,
            time_left_s=lambda: request.time_limit_s,
            precisions={found.name: found.precisions for found in probes},
        )
        known = [c for stage in (first_baselines, first_techniques, other_baselines) for c in next(stage(scene))]
        structures = Training(scene, {}, ()).structures() if request.task.train is not None else ()
    return {
        "tried": [_row(candidate) for candidate in known]
        + [{"stage": "training", "recipe": described(s), "backend": "the best so far"} for s in structures],
        "not_tried": _not_tried(request, broken),
        "notes": [
            f"The {len(known)} trials without training take about {round(build_s + TRIAL_S * len(known))} s; "
            f"the time limit is {request.time_limit_s:g} s, and training takes what is left of it."
            if structures
            else f"These {len(known)} trials take about {round(build_s + TRIAL_S * len(known))} s; then come more "
            f"settings around the best, within the time limit of {request.time_limit_s:g} s.",
        ],
    }


def _row(candidate: Candidate) -> dict[str, str]:
    return {
        "stage": candidate.stage,
        "recipe": described(candidate.recipe),
        "backend": str(candidate.backend),
    }


def _not_tried(request: Request, broken: dict[str, str]) -> list[dict[str, str]]:
    found = [{"what": name, "why": reason} for name, reason in broken.items()]
    if isinstance(request.task.model, Path):
        found.append(
            {"what": "techniques of modules", "why": "the task is a graph: pruning and training need a module"}
        )
    elif request.task.train is None:
        found.append({"what": "pruning and training", "why": "the task has no `train` data"})
    return found
