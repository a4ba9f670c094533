"""The time limit on a machine where every trial and every comparison takes a known time, by a clock that is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import paring
from paring.flow.request import Executor
from paring.flow.result import Result
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.techniques.base import Technique
from paring.tune import Candidate, Speedup, Trial
from tests import sleepy

LIMIT_S = 300.0
TRIAL_S = 40.0
SEARCH_S = 225.0
"""A quarter of the limit is kept for the conclusion."""


@dataclass
class Clock:
    """Stands in for the module `time`."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of runs; comparisons at length take all the time that they are given."""
    clock = Clock()
    for module in ("paring.flow.clock", "paring.data.job"):
        monkeypatch.setattr(f"{module}.time", clock)

    def compare(*_: Any, time_limit_s: float, **__: Any) -> Comparison:
        clock.now_s += time_limit_s
        fast, slow = (Latency(p50, p50, p50, 1000 / p50, 10) for p50 in (2.0, 12.0))
        return Comparison(6.0, 5.9, 6.1, fast, slow, 1, 1, 10)

    monkeypatch.setattr("paring.flow.conclusion.compare", compare)
    return clock


def taking(clock: Clock) -> Callable[..., Iterator[Trial]]:
    """Runs the originals alone; the first technique is six times as fast, the others are slower."""

    def executor(run: Callable[[Candidate], Trial], asked: Iterable[Candidate]) -> Iterator[Trial]:
        for candidate in asked:
            clock.now_s += TRIAL_S
            yield imagined(candidate) if candidate.recipe else run(candidate)

    return executor


def imagined(candidate: Candidate) -> Trial:
    ratio = 12 / candidate.recipe[0].settings()["cost_ms"]
    return replace(
        Trial.of(candidate, 1, "measured"),
        latency_ms={"p50": 12 / ratio, "p90": 12 / ratio, "p99": 12 / ratio},
        throughput_per_s=ratio,
        size_bytes=round(1e9 / ratio),
        peak_memory_bytes=round(1e9 / ratio),
        score=1.0,
        drop=0.0,
        drop_deviation=0.0,
        rows=375,
        speedup=Speedup(ratio, ratio, ratio),
    )


def searched(out: Path, executor: Executor, *techniques: Technique) -> Result:
    return paring.optimize(
        sleepy.task(),
        out=out,
        time_limit_s=LIMIT_S,
        techniques=techniques,
        backends=[sleepy.Sleepy()],
        threads=1,
        executor=executor,
        progress=False,
    )


def test_the_search_uses_its_time_and_the_whole_run_keeps_the_limit(tmp_path: Path, clock: Clock) -> None:
    began_s = clock.now_s
    others = [sleepy.Cheapen(20.0 + number) for number in range(40)]
    result = searched(tmp_path, taking(clock), sleepy.Cheapen(2.0), *others)
    assert result.status == "improved"
    assert SEARCH_S <= max(trial.elapsed_s for trial in result.trials) < SEARCH_S + TRIAL_S
    assert result.values["wall_time_s"] == pytest.approx(clock.now_s - began_s, abs=0.1)
    assert result.values["wall_time_s"] <= 1.1 * LIMIT_S


def test_time_that_ends_with_the_originals_is_the_reason_why_nothing_was_tried(tmp_path: Path, clock: Clock) -> None:
    def slow(run: Callable[[Candidate], Trial], asked: Iterable[Candidate]) -> Iterator[Trial]:
        for candidate in asked:
            yield run(candidate)
            clock.now_s += SEARCH_S + TRIAL_S

    result = searched(tmp_path, slow, sleepy.Cheapen(2.0))
    assert result.status == "kept-original"
    assert result.reason == "the time limit ended before anything but the original was tried: allow more time"
