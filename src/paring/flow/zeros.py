"""Weights that are zero: what the trials showed them to save, of bytes and of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from paring.report import units
from paring.tune import Candidate, Speedup, Trial
from paring.tune.proposing import only_mends


@dataclass(frozen=True)
class _Zeros:
    """What the zeros of a technique did on a backend: the share of the bytes that they saved, and the speed-up."""

    saved: float
    speedup: Speedup
    technique: str
    backend: str


def zeros_told(trials: Sequence[Trial], candidates: Mapping[str, Candidate]) -> str:
    """A sentence on the runtimes that are not faster with zeros for sure, by the file that left out most; else empty.

    A file that leaves out its zeros is held against that of the same recipe on the same backend without the technique
    that made them, and without the trainings that mended it: neither changes a shape.
    """
    most: dict[str, _Zeros] = {}
    for zeros in _found({trial.key: trial for trial in trials}, candidates):
        if zeros.saved > 0:
            most[zeros.backend] = max(most.get(zeros.backend, zeros), zeros, key=lambda each: each.saved)
    idle = [zeros for zeros in most.values() if zeros.speedup.low <= 1]
    return _sentence(max(idle, key=lambda each: each.saved), sorted(each.backend for each in idle)) if idle else ""


def _found(trials: Mapping[str, Trial], candidates: Mapping[str, Candidate]) -> Iterator[_Zeros]:
    for trial in trials.values():
        if not trial.sparse or trial.key not in candidates:
            continue
        candidate = candidates[trial.key]
        for technique, other in _without(candidate):
            twin = trials.get(other.key)
            if twin and not twin.sparse and twin.size_bytes and trial.size_bytes and twin.speedup and trial.speedup:
                saved, speedup = 1 - trial.size_bytes / twin.size_bytes, trial.speedup.over(twin.speedup)
                yield _Zeros(saved, speedup, technique, candidate.backend.name)


def _without(candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Each technique that may have made the zeros, with the candidate as it would be without."""
    recipe = tuple(technique for technique in candidate.recipe if not only_mends(type(technique)))
    for index, technique in enumerate(recipe):
        yield str(technique), Candidate((*recipe[:index], *recipe[index + 1 :]), candidate.backend, candidate.stage)


def _sentence(zeros: _Zeros, backends: Sequence[str]) -> str:
    """In plain words."""
    speed = f"{units.ratio(zeros.speedup.ratio)} the speed, {units.interval(zeros.speedup.low, zeros.speedup.high)}"
    named = " and ".join(filter(None, [", ".join(backends[:-1]), backends[-1]]))
    does = "does" if len(backends) == 1 else "do"
    return (
        f"Zeros of {zeros.technique} saved {units.percent(round(zeros.saved, 2))} of the bytes and no time ({speed}): "
        f"{named} {does} not skip zeros."
    )
