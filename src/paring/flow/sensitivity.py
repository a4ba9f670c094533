"""sensitivity: what each part of a network gains and loses alone, and what to take for a speed-up that is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paring.artifact.files import write_json
from paring.backends.base import Backend
from paring.errors import InputError, TaskError, TechniqueError, quoted
from paring.flow.hunt import Hunt
from paring.flow.optimize import prepared_run
from paring.flow.request import Request, installed, resolved
from paring.report import write_survey
from paring.techniques.base import Recipe, Technique, divides
from paring.tune import Candidate, Trial
from paring.tune.allocation import Shown
from paring.tune.proposing import kind_of, useless
from paring.tune.proposing import told as name_of
from paring.tune.survey import Survey, Target
from paring.types import Budget, Task


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found: `values` is sensitivity.json.

    `recipe` does the least harm for the speed-up that was wanted; None where none was, or it was not reached.
    """

    recipe: Recipe | None
    trials: tuple[Trial, ...]
    values: dict[str, Any]


def sensitivity(
    task: Task,
    *,
    out: Path | str,
    speedup: float | None = None,
    latency_ms: float | None = None,
    batch_size: int = 1,
    time_limit_s: float = 600,
    techniques: Sequence[Technique | type[Technique] | str] | None = None,
    backends: Sequence[Backend | type[Backend] | str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
) -> Sensitivity:
    """Measure each part of the techniques that divide (groups of channels at several sizes, blocks) alone, untrained.

    By default of those whose parts gain time; `PruneWeights` tells by name what the zeros of each layer cost.
    What it gains is time of the exported network in a process of its own, on the backend that runs the original
    fastest; what it loses is score on the selection split, which is the one that `optimize` searches on. Where a
    `speedup` over the original or a `latency_ms` of a batch is wanted, parts are joined in the order of harm for gain,
    and a bisection looks for the first join that is measured to be so fast; of those that are, the one of least harm is
    the recipe: what is left to do is to train it. An object among the techniques keeps its settings. Raises InputError
    (and its kinds) for what can't be used.
    """
    target = Target(speedup, latency_ms)
    request = Request(
        task=task,
        budget=Budget(batch_size=batch_size),
        out=Path(out) if isinstance(out, str | os.PathLike) else out,
        time_limit_s=time_limit_s,
        techniques=dividing(resolved("technique", techniques), target),
        backends=resolved("backend", backends),
        threads=threads,
        seed=seed,
        resume=resume,
        progress=progress,
    )
    return survey(request, target)


def dividing(techniques: Sequence[Any] | None, target: Target) -> tuple[Any, ...]:
    """These, or all that are installed and divide into parts that gain time.

    Raises InputError for a recipe, for one that does not divide, or whose parts gain no time where some is wanted.
    """
    known = [each for each in installed("technique") if divides(each) and "latency" in each.improves]
    if techniques is None:
        return tuple(known)
    named = ", ".join(sorted(each.__name__ for each in known))
    for technique in techniques:
        if isinstance(technique, tuple):
            told = f"{typed(technique)} is a recipe, and the parts of single techniques are measured"
            raise InputError(f"{told}: name techniques that divide into parts ({named}), separated by commas.")
        kind = kind_of(technique)
        is_technique = isinstance(kind, type) and issubclass(kind, Technique)
        why = "does not divide into parts" if not (is_technique and divides(kind)) else ""
        if not why and target.wanted and "latency" not in kind.improves:
            why = "divides into parts of which no runtime here gains any time"
        if why:
            name = getattr(kind, "__name__", quoted(technique))
            raise InputError(f"{name} {why}: name techniques that do ({named}).")
    # What would not be proposed for its speed is measured nevertheless, since it was named.
    return tuple(technique() if useless(technique, ("latency",)) else technique for technique in techniques)


def check_module(model: object) -> None:
    """Raise TaskError for a graph, whose layers can't be taken apart."""
    if isinstance(model, Path):
        raise TaskError(f"{model} is a graph, and parts are removed from a module: give a task whose model is one.")


def survey(request: Request, target: Target) -> Sensitivity:
    """Carry out a request, of which no drop is too large: what parts lose is what is to be known."""
    check_module(request.task.model)
    low, high = request.task.score_range
    request = replace(request, budget=replace(request.budget, max_drop=float(high - low)))
    with prepared_run(request) as (prepared, told):
        with prepared.runner() as runner:
            hunt = Hunt(prepared, runner, told, certifies=False)
            scene = hunt.scene()
            for technique in scene.techniques:
                # What is measured here needs no training behind it, as it would in a search.
                scene.not_tried.pop(name_of(technique), None)
            found = Survey(scene, target)
            hunt.follow(found)
        reached = hunt.candidates[found.reached.key] if found.reached else None
        values = _values(request, found, reached, prepared.not_tried)
        write_json(prepared.folder.sensitivity, values)
        write_survey(prepared.folder.root)
        prepared.networks.keep(())
        return Sensitivity(reached.recipe if reached else None, tuple(hunt.trials), values)


def _values(request: Request, found: Survey, reached: Candidate | None, not_tried: dict[str, str]) -> dict[str, Any]:
    """What sensitivity.json holds. Raises TechniqueError where nothing was measured."""
    original = found.original
    if original is None or not found.shown:
        failed = [f"{t.recipe_text}: {t.reason}" for t in found.trials if t.part and t.outcome == "failed"]
        reasons = [*(f"{what}: {reason}" for what, reason in not_tried.items()), *failed[:1]]
        told = "; ".join(reason.rstrip(".") for reason in reasons)
        raise TechniqueError(f"no part of the network could be measured ({told or 'it has none'}).")
    wanted = found.target.speedup_over(original)
    return {
        "task": request.task.name,
        "batch_size": request.budget.batch_size,
        "threads": request.thread_count,
        "backend": original.backend_text,
        "original": {"latency_ms": original.latency_ms, "score": original.score},
        "rows": original.rows,
        "parts": [_part(shown) for shown in found.shown],
        "wanted_speedup": wanted,
        "joins": [_join(found, recipe, trial) for recipe, trial in found.told_joins],
        "recipe": typed(reached.recipe) if reached else None,
        "train_data": request.task.train is not None,
        "reason": _reason(found, wanted) if wanted and not reached else "",
        "not_tried": [{"what": what, "reason": reason} for what, reason in not_tried.items()],
    }


def _reason(found: Survey, wanted: float) -> str:
    """Why nothing that was joined is so fast."""
    fastest = max(filter(None, (found.speedup_of(trial) for _, trial in found.joins.values())), default=None)
    seen = "no join of parts was measured" if fastest is None else f"the fastest join of parts came to {fastest:.2f}x"
    return f"{wanted:.2f}x was not reached: {seen}. Want less, allow more time, or quantize what is left."


def _part(shown: Shown) -> dict[str, Any]:
    part = shown.part
    return {
        "technique": part.technique.name,
        "layer": part.layer,
        "share": part.share,
        "time_saved": shown.gain,
        "drop": shown.harm,
        "typed": str(part.technique),
    }


def _join(found: Survey, recipe: Recipe, trial: Trial) -> dict[str, Any]:
    return {
        "recipe": typed(recipe),
        "speedup": found.speedup_of(trial),
        "latency_ms": trial.latency_ms,
        "drop": trial.drop,
        "outcome": trial.outcome,
        "reason": trial.reason,
    }


def typed(recipe: Sequence[Technique]) -> str:
    """A recipe as the command line takes it."""
    return " + ".join(str(technique) for technique in recipe)
