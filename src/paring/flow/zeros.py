"""Weights that are zero: what the trials showed them to save, of bytes and of time; what is known where none did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paring.report import units
from paring.techniques.base import ModuleTechnique, Technique
from paring.tune import Candidate, Speedup, Trial
from paring.tune.proposing import only_mends

NO_GAIN = 1.1
"""An interval of speed-ups that holds 1 and ends below shows that there is no gain; one that goes beyond can't tell."""


@dataclass(frozen=True)
class _Zeros:
    """What the zeros of techniques did on a backend: the share of the bytes that they saved, and the speed-up."""

    saved: float
    speedup: Speedup
    techniques: str
    backend: str


def zeros_told(trials: Sequence[Trial], candidates: Mapping[str, Candidate], shown: Sequence[Trial] = ()) -> str:
    """Sentences on the runtimes that are not faster with zeros for sure, by the file that left out most; else empty.

    A file that leaves out its zeros is held against that of the same recipe on the same backend without what made them,
    and without the trainings that mended it: neither changes a shape. Of a backend where nothing was held against
    another, the first of those `shown` to the user that holds zeros is told what holds of zeros everywhere.
    """
    most: dict[str, _Zeros] = {}
    # Of files that leave out as much, one that the user is shown is told.
    for zeros in _found({trial.key: trial for trial in (*shown, *trials)}, candidates):
        if zeros.saved > 0:
            most[zeros.backend] = max(most.get(zeros.backend, zeros), zeros, key=lambda each: each.saved)
    known = ""
    if all(zeros.speedup.low <= 1 for zeros in most.values()):
        sparse = (candidates[trial.key] for trial in shown if trial.sparse and trial.key in candidates)
        known = next(filter(None, (_unmeasured(each) for each in sparse if each.backend.name not in most)), "")
    return " ".join(filter(None, (_measured(list(most.values())), known)))


def _found(trials: Mapping[str, Trial], candidates: Mapping[str, Candidate]) -> Iterator[_Zeros]:
    for trial in trials.values():
        if not trial.sparse or trial.key not in candidates:
            continue
        candidate = candidates[trial.key]
        for techniques, other in _without(candidate):
            twin = trials.get(other.key)
            if twin and not twin.sparse and twin.size_bytes and trial.size_bytes and twin.speedup and trial.speedup:
                saved, speedup = 1 - trial.size_bytes / twin.size_bytes, trial.speedup.over(twin.speedup)
                yield _Zeros(saved, speedup, techniques, candidate.backend.name)


def _without(candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Each technique that may have made the zeros, and all that save bytes alone, with the candidate without them.

    Techniques of graphs make numbers narrower, and what that saves is not told as the work of zeros.
    """
    recipe = tuple(technique for technique in candidate.recipe if not only_mends(type(technique)))
    makers = [technique for technique in recipe if isinstance(technique, ModuleTechnique)]
    together = [technique for technique in makers if _saves_bytes_alone(technique)]
    for gone in (*([technique] for technique in makers), *([together] if len(together) > 1 else [])):
        rest = tuple(technique for technique in recipe if not any(technique is one for one in gone))
        yield _listed(map(str, gone)), Candidate(rest, candidate.backend, candidate.stage)


def _saves_bytes_alone(technique: Technique) -> bool:
    """Whether it, or a technique among its settings, serves no objective of time."""
    inner = (value for value in vars(technique).values() if isinstance(value, Technique))
    return not {"latency", "throughput"}.intersection(technique.improves) or any(map(_saves_bytes_alone, inner))


def _measured(most: Sequence[_Zeros]) -> str:
    """What was held against another file, in plain words; an interval too wide to tell is told as that."""
    idle = [zeros for zeros in most if zeros.speedup.low <= 1]
    sure = [zeros for zeros in idle if zeros.speedup.high <= NO_GAIN]
    if not idle:
        return ""
    zeros = max(sure or idle, key=lambda each: each.saved)
    saved = f"Zeros of {zeros.techniques} saved {units.percent(round(zeros.saved, 2))} of the bytes"
    interval = units.interval(zeros.speedup.low, zeros.speedup.high)
    if not sure:
        return f"{saved}, and no gain in time could be measured: the speed with them lies within {interval}×."
    does = "does" if len(sure) == 1 else "do"
    return (
        f"{saved} and no time ({units.ratio(zeros.speedup.ratio)} the speed, {interval}): "
        f"{_listed(sorted(each.backend for each in sure))} {does} not skip zeros."
    )


def _unmeasured(candidate: Candidate) -> str:
    """What holds of zeros on every runtime there is, with no figure; empty where the recipe makes none."""
    makers = (technique for technique in candidate.recipe if isinstance(technique, ModuleTechnique))
    techniques = [str(technique) for technique in makers if _saves_bytes_alone(technique)]
    if not techniques:
        return ""
    return (
        f"Zeros of {_listed(techniques)} save bytes, and no runtime that paring knows is faster by them: "
        "a gain in speed comes from the rest of the recipe."
    )


def _listed(names: Iterable[str]) -> str:
    """As people write a list."""
    *others, last = names
    return " and ".join(filter(None, (", ".join(others), last)))
