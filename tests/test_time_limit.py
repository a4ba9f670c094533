"""The time limit on a machine where every trial and every comparison takes a known time, by a clock that is moved."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import onnx
import pytest

import paring
from paring.data.job import Job
from paring.errors import BudgetError
from paring.flow.pace import ROOMY_ANSWERS
from paring.flow.plan import make_plan
from paring.flow.request import Executor, Request
from paring.flow.result import Result
from paring.report import summary
from paring.techniques import PruneChannels
from paring.techniques.base import Technique
from paring.tune import Candidate, Speedup, Trial
from paring.types import Budget
from tests import sleepy
from tests.moved_clock import Clock

LIMIT_S = 300.0
TRIAL_S = 40.0
SEARCH_S = 225.0
"""A quarter of the limit is kept for the conclusion."""


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


def searched(
    out: Path, executor: Executor, *techniques: Technique | type[Technique], budget: Budget | None = None
) -> Result:
    return paring.optimize(
        sleepy.task(),
        budget,
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


def ending_with_the_originals(clock: Clock) -> Executor:
    """The time of the search is spent when the original was tried."""

    def executor(run: Callable[[Candidate], Trial], asked: Iterable[Candidate]) -> Iterator[Trial]:
        for candidate in asked:
            yield run(candidate)
            clock.now_s += SEARCH_S + TRIAL_S

    return executor


def test_time_that_ends_with_the_originals_is_the_reason_why_nothing_was_tried(tmp_path: Path, clock: Clock) -> None:
    result = searched(tmp_path, ending_with_the_originals(clock), sleepy.Cheapen(2.0))
    assert result.status == "kept-original"
    assert result.reason == "the time limit ended before anything but the original was tried: allow more time"


def test_a_budget_that_nothing_was_tried_for_is_not_said_to_be_out_of_reach(tmp_path: Path, clock: Clock) -> None:
    budget = Budget(max_latency_ms=6.0)
    result = searched(tmp_path, ending_with_the_originals(clock), sleepy.Cheapen(2.0), budget=budget)
    assert result.status == "infeasible"
    assert re.fullmatch(
        r"the original misses the budget \(latency 1\d\.\d ms above 6\.00 ms\), and the time limit ended before "
        "anything but the original was tried: allow more time",
        result.reason,
    )
    assert summary(result.values).startswith("Nothing that was tried meets the budget.\nThe original misses")


def test_time_is_not_blamed_where_no_technique_fits_the_task(tmp_path: Path, clock: Clock) -> None:
    result = searched(tmp_path, ending_with_the_originals(clock), PruneChannels)
    assert result.reason == (
        "no technique proposed anything to try for this network "
        "(PruneChannels: it is tried with training behind it, and the task has no `train` data)"
    )


ROWS, SELECTED = 1500, 375
GOOD = sleepy.Cheapen(2.0)


@dataclass(frozen=True)
class Levels(sleepy.Cheapen):
    """Proposes three settings, of which a search tries the first two before it may look at one."""

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield from (cls(2.0), cls(4.0), cls(8.0))


def optimized(out: Path, technique: Technique | type[Technique], limit_s: float = LIMIT_S) -> Result:
    return paring.optimize(
        sleepy.task(ROWS),
        out=out,
        time_limit_s=limit_s,
        techniques=[technique],
        backends=[sleepy.Sleepy()],
        threads=1,
        progress=False,
    )


def shares(out: Path) -> list[float]:
    return [look["share"] for look in json.loads((out / "trials" / "finalists.json").read_text())["looks"]]


def test_more_rows_than_the_limit_can_hold_are_refused_at_once_with_what_is_needed(
    tmp_path: Path, clock: Clock
) -> None:
    began_s, clock.row_s = clock.now_s, 0.11
    with pytest.raises(
        BudgetError, match=r"takes 110 ms a row here, and .* takes 330 s\. Allow at least 413 s.* 1090 rows"
    ):
        optimized(tmp_path, GOOD)
    assert clock.now_s - began_s < 0.1 * LIMIT_S
    assert not (tmp_path / "trials" / "trials.jsonl").exists()


def test_a_look_that_the_time_cuts_short_costs_nothing_and_is_said(tmp_path: Path, clock: Clock) -> None:
    began_s, clock.row_s = clock.now_s, 0.098
    result = optimized(tmp_path, GOOD)
    assert result.status == "kept-original"
    assert "Cheapen on sleepy was not certified: the time limit has no room for its look" in result.reason
    assert result.reason.endswith("allow more time.")
    assert clock.now_s - began_s <= 1.1 * LIMIT_S
    assert not (tmp_path / "trials" / "finalists.json").exists()
    longer = optimized(tmp_path, GOOD, 2 * LIMIT_S)
    assert longer.status == "improved"
    assert [trial.key for trial in longer.trials] == [trial.key for trial in result.trials]
    assert shares(tmp_path) == [0.6]


def test_an_early_look_that_would_take_most_of_the_search_waits_for_its_end(tmp_path: Path, clock: Clock) -> None:
    began_s, clock.row_s = clock.now_s, 100 / ROWS
    result = optimized(tmp_path, Levels)
    assert [trial.recipe_text for trial in result.trials] == [
        "original",
        "Levels",
        "Levels(cost_ms=4.0)",
        "Levels(cost_ms=8.0)",
    ]
    assert result.status == "improved"
    assert shares(tmp_path) == [0.6]
    assert clock.now_s - began_s <= 1.1 * LIMIT_S


def test_a_run_that_was_stopped_in_a_look_answers_as_if_it_had_not_been(tmp_path: Path, clock: Clock) -> None:
    clock.row_s, clock.interrupt_s = LIMIT_S / (ROOMY_ANSWERS * ROWS), clock.now_s + 120
    with pytest.raises(KeyboardInterrupt):
        optimized(tmp_path, GOOD)
    assert (tmp_path / "trials" / "looks" / "pace.json").exists()
    assert not (tmp_path / "trials" / "looks" / "original.npy").exists()
    began_s, clock.interrupt_s = clock.now_s, math.inf
    assert optimized(tmp_path, GOOD).status == "improved"
    assert shares(tmp_path) == [0.6]
    assert clock.now_s - began_s <= 1.1 * LIMIT_S


def test_a_plan_knows_how_long_rows_take(tmp_path: Path, clock: Clock) -> None:
    request = Request(
        sleepy.task(ROWS), Budget(), tmp_path, LIMIT_S, techniques=[GOOD], backends=[sleepy.Sleepy()], threads=1
    )
    clock.row_s, clock.once_s = 0.02, 30.0
    told = make_plan(request)["notes"][1]
    assert f"if each takes {4 + SELECTED * clock.row_s:.1f} s as the original would" in told
    named = re.search(r"These 2 trials take about (\d+) s", told)
    assert named
    assert 9 * SELECTED * clock.row_s < int(named[1]) - 2 * (4 + SELECTED * clock.row_s)
    clock.row_s = 0.11
    with pytest.raises(BudgetError, match=r"time_limit_s=300 is too short for the 1500 rows of evaluate"):
        make_plan(request)
