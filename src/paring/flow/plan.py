"""plan: what would be tried, what can't be and why, and how long it takes; no candidate is run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.backends.probe import Probe, probe
from paring.data.job import Job
from paring.data.split import Splits, split_rows
from paring.flow.certifiable import Certifiable
from paring.flow.clock import LOOKS
from paring.flow.ledger import FINAL_SHARE
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.flow.reference import pace_of
from paring.flow.request import Request
from paring.techniques.base import described
from paring.tune import Candidate, Ranking, Scene
from paring.tune.post_training import asked_recipes, first_baselines, first_techniques, other_baselines
from paring.tune.structures import planned

TRIAL_S = 4.0
"""What a trial takes beside building its network and scores: two processes, a second of timing."""


def make_plan(request: Request) -> dict[str, Any]:
    """The candidates that are known beforehand, what can't be tried and why, and how long it would take.

    What comes after them depends on what they show: more settings around the leaders, then, with training data,
    structures that are pruned and trained, and trainings that prune, for as long as the time limit allows. The original
    is run on as many rows as tell how long one takes. Raises BudgetError where the rows of `evaluate` can't certify the
    budget or are too many for the time limit, BackendError where no backend runs the original.
    """
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        signature = task_signature(request.task, trains=request.trains)
        request.check_fits()
        splits = split_rows(request.task, Path(folder) / "data", signature.input_names, request.seed)
        certifiable = _certifiable(request, splits)
        probes = probe(request.all_backends())
        job = Job.of(request.task, seed=request.seed, threads=request.thread_count)
        networks = Networks(job, signature, Path(folder))
        times = Times.of(request, networks, probes, splits)
        scene = _scene(request, probes, networks)
        known_s = time.monotonic() - begin_s
        stages = (first_baselines(scene), asked_recipes(scene), first_techniques(scene), other_baselines(scene))
        known = {candidate.key: candidate for stage in stages for asked in stage for candidate in asked}
        trainings = planned(scene)
    trained = [{"stage": "training", "recipe": described(r), "backend": "the best so far"} for r in trainings]
    not_tried = request.unusable(probes) | scene.not_tried
    more = any(candidate.recipe for candidate in known.values()) and _has_other_settings(scene)
    told = times.told(len(known), known_s, request, training=bool(trained), more=more)
    return {
        "tried": [_row(candidate) for candidate in known.values()] + trained,
        "not_tried": [{"what": what, "reason": reason} for what, reason in not_tried.items()],
        "notes": [f"{certifiable.told}.", told],
    }


def _certifiable(request: Request, splits: Splits) -> Certifiable:
    """What the rows could certify, were the original's scores all right or wrong."""
    certifiable = Certifiable.of(request.task, request.budget, len(splits.certification), FINAL_SHARE)
    certifiable.check()
    return certifiable


@dataclass(frozen=True)
class Times:
    """What scores take where a candidate takes as long for a row as the original does."""

    selection_s: float
    looks_s: float

    @classmethod
    def of(cls, request: Request, networks: Networks, probes: tuple[Probe, ...], splits: Splits) -> Times:
        """By running the original on a few rows. Raises BudgetError where the time limit can't hold what it takes."""
        pace = pace_of(request, networks, probes, splits)
        return cls(len(splits.selection) * pace.row_s, LOOKS * pace.look_s(len(splits.certification)))

    def told(self, trials: int, prepared_s: float, request: Request, *, training: bool, more: bool) -> str:
        """In one sentence, with what it supposes; `more` tells whether other settings follow around the best."""
        trial_s = TRIAL_S + self.selection_s
        total_s = prepared_s + self.selection_s + trials * trial_s + self.looks_s
        these, take = ("This trial", "takes") if trials == 1 else (f"These {trials} trials", "take")
        without = " without training" if training else ""
        limit = f"the time limit is {request.time_limit_s:g} s"
        if training:
            limit += ", of which parts that are measured alone may take a tenth, and training takes what is left of it"
        elif more:
            limit = f"then come more settings around the best, within the time limit of {request.time_limit_s:g} s"
        return (
            f"{these}{without} {take} about {round(total_s)} s beside building their networks, looks at the "
            f"certification rows included, if each takes {trial_s:.1f} s as the original would; {limit}."
        )


def _has_other_settings(scene: Scene) -> bool:
    """Whether anything may be tried with other settings than its first: objects have those that they were given."""
    return any(isinstance(each, type) for each in (*scene.techniques, *scene.backends))


def _scene(request: Request, probes: Sequence[Probe], networks: Networks) -> Scene:
    """What a search of the request would know as it begins."""
    model = request.task.model
    return Scene(
        budget=request.budget,
        ranking=Ranking(request.budget, 1, request.budget.confidence),
        job=networks.job,
        model=None if isinstance(model, Path) else model,
        graph=networks.original_graph(),
        techniques=request.all_techniques(),
        recipes=request.recipes,
        backends=request.usable_backends(request.unusable(probes)),
        threads=request.thread_count,
        time_left_s=lambda: request.time_limit_s,
        precisions={found.name: found.precisions for found in probes if found.works},
    )


def _row(candidate: Candidate) -> dict[str, str]:
    return {
        "stage": candidate.stage,
        "recipe": described(candidate.recipe),
        "backend": str(candidate.backend),
    }
