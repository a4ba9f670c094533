"""Why no candidate is the result: each case has a reason of its own, it is true, and it names what binds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from paring.flow.answer import Findings
from paring.flow.reasons import NOT_COME_TO, WithoutWinner, missed
from paring.techniques import FineTune, HalfPrecision, PruneChannels, PruneWeights
from paring.tune import Candidate, Miss, Ranking, Speedup, Trial
from paring.tune.proposing import any_fits
from paring.types import Budget, Objective
from tests.sleepy import Cheapen
from tests.sleepy_backend import Sleepy

FAILED = Trial.of(Candidate((Cheapen(),), Sleepy(), "post-training"), 1, "failed", "it died.")
SKIPPED = replace(FAILED, outcome="skipped", reason="hopeless")


def measured(cost_ms: float, *, drop: float = 0.0, size_bytes: int = 1000) -> Trial:
    """By a technique that costs so much; the original costs 12 ms."""
    candidate = Candidate((Cheapen(cost_ms),) if cost_ms != 12 else (), Sleepy(), "post-training")
    return replace(
        Trial.of(candidate, 1, "measured"),
        latency_ms={"p50": cost_ms},
        size_bytes=size_bytes,
        peak_memory_bytes=60_000_000,
        speedup=Speedup(12 / cost_ms, 11.9 / cost_ms, 12.1 / cost_ms),
        drop=drop,
        drop_deviation=drop**0.5,
        rows=375,
    )


ORIGINAL = measured(12, size_bytes=230_000)


def findings(
    *tried: Trial,
    judged: str = "",
    time_up: bool = False,
    fitting: bool = True,
    not_tried: dict[str, str] | None = None,
    **budget: Any,
) -> Findings:
    """Of a run that tried the original and these, on 1125 rows for the certificate."""
    ranking, trials = Ranking(Budget(**budget), 1125, 0.98), [ORIGINAL, *tried]
    reason = WithoutWinner(ranking, trials, [ORIGINAL], not_tried or {}, fitting, time_up).reason(judged)
    return Findings.without_winner(ORIGINAL, ranking, trials, reason)


def reason(*tried: Trial, **known: Any) -> str:
    """Where the original is kept."""
    found = findings(*tried, **known)
    assert found.status == "kept-original"
    return found.reason


def misses(*tried: Trial, **known: Any) -> str:
    """Why nothing meets a budget that the original, of 230 kB, breaks by its size."""
    found = findings(*tried, max_size_bytes=70_000, **known)
    assert found.status == "infeasible"
    opening = "the original misses the budget (size 230 kB above 70.0 kB), and "
    assert found.reason.startswith(opening)
    return found.reason.removeprefix(opening)


def test_nothing_was_proposed() -> None:
    assert reason() == "no technique proposed anything to try for this network"
    not_tried = {"Prune": "the task is a graph.", "Int8": "it is quantized.", "Remove": "the task is a graph."}
    assert reason(not_tried=not_tried) == (
        "no technique proposed anything to try for this network (Prune, Remove: the task is a graph; "
        "Int8: it is quantized)"
    )


def test_the_time_was_up_before_anything_was_tried() -> None:
    told = "the time limit ended before anything but the original was tried: allow more time"
    assert reason(time_up=True, not_tried={"Prune": "the task is a graph."}) == told
    assert misses(time_up=True) == told


def test_the_time_is_not_blamed_where_nothing_could_have_been_tried() -> None:
    late = "the time limit ended: allow more time."
    not_tried = {"Int8": "torch reads no graphs.", "original on torch(threads=1)": late, NOT_COME_TO: late}
    assert reason(time_up=True, fitting=False, not_tried=not_tried) == (
        "no technique proposed anything to try for this network (Int8: torch reads no graphs)"
    )


def test_what_fits_a_task_needs_a_backend_that_reads_it_and_data_to_train_on() -> None:
    class Modules(Sleepy):
        format = "torch"

    def fits(
        *asked: Any, backend: type[Sleepy] = Modules, wants: Sequence[Objective] = ("latency",), **task: bool
    ) -> bool:
        techniques = [each for each in asked if not isinstance(each, tuple)]
        recipes = [each for each in asked if isinstance(each, tuple)]
        told = {"graph_only": False, "train_data": False, **task}
        return any_fits(techniques, recipes, [backend], wants, **told)

    assert not fits(HalfPrecision, PruneChannels, FineTune)
    assert fits(HalfPrecision, backend=Sleepy)
    assert fits(PruneChannels, FineTune, train_data=True)
    assert fits(PruneChannels(ratio=0.5))
    assert not fits(PruneChannels(ratio=0.5), graph_only=True)
    assert not fits(PruneWeights, FineTune, train_data=True)
    assert fits(PruneWeights, FineTune, train_data=True, wants=("latency", "size"))
    trained = (PruneWeights(sparsity=0.5), FineTune())
    assert fits(trained, train_data=True)
    assert not fits(trained)
    assert not fits((PruneChannels(), HalfPrecision()))
    assert fits((PruneChannels(), HalfPrecision()), backend=Sleepy)


def test_nothing_could_be_measured() -> None:
    other = replace(FAILED, reason="something else")
    told = "no candidate could be measured (3 failed, 1 skipped; most often: it died)"
    assert reason(other, FAILED, FAILED, SKIPPED) == told
    assert (
        reason(other, FAILED, FAILED, SKIPPED, time_up=True)
        == f"{told}; the time limit ended before all was tried: allow more time"
    )


def test_where_most_failed_the_commonest_failure_is_named_beside_what_binds() -> None:
    other, slow = replace(FAILED, reason="something else"), measured(24)
    told = reason(slow, other, FAILED, FAILED, SKIPPED)
    assert told.startswith("no candidate that keeps the accuracy by enough to be certified was faster")
    assert told.endswith("; 3 other candidates failed (most often: it died)")
    assert "failed" not in reason(slow, FAILED)


def test_everything_lost_too_much() -> None:
    stopped = replace(measured(2, drop=0.2), outcome="stopped-early", reason="too much")
    assert reason(FAILED, stopped, measured(4, drop=0.0312), max_drop=0.02) == (
        "every candidate that ran lost more than max_drop=0.02 allows: the least was a drop of 0.0312, by "
        "Cheapen(cost_ms=4) on sleepy"
    )


@pytest.mark.parametrize(
    ("objective", "better"),
    [
        ("latency", "was faster than the original"),
        ("throughput", "was faster than the original"),
        ("memory", "had less memory than the original, without being slower"),
    ],
)
def test_nothing_was_better(objective: str, better: str) -> None:
    told = f"no candidate that keeps the accuracy by enough to be certified {better}: the nearest is "
    assert reason(measured(2, drop=0.3), measured(24), objective=objective) == f"{told}Cheapen(cost_ms=24) on sleepy"


def test_the_certificate_binds() -> None:
    """No row was lost, and yet no bound can be 0: the limits are held, and it is the drop that is not."""
    assert misses(measured(2, size_bytes=65_000), max_drop=0.0) == (
        "no candidate that ran and holds the other limits is likely enough to be certified at max_drop=0: the "
        "nearest, Cheapen on sleepy, would come to a bound of about 0.0037"
    )


def test_what_is_fast_and_not_likely_enough_is_told_apart_from_what_is_slow_and_sure() -> None:
    fast, slow = measured(2, drop=0.004), measured(24)
    assert reason(fast, slow) == (
        "no candidate that could take the place of the original is likely enough to be certified at max_drop=0.01: the "
        "nearest, Cheapen on sleepy, would come to a bound of about 0.0116"
    )


def test_each_side_of_the_budget_names_what_binds_it() -> None:
    small, accurate = measured(2, drop=0.3, size_bytes=60_000), measured(4, size_bytes=90_000)
    larger = measured(6, size_bytes=150_000)
    assert misses(small, larger, accurate) == (
        "every candidate that ran and holds the other limits lost more than max_drop=0.01 allows: the least was a "
        "drop of 0.3000, by Cheapen on sleepy; of what loses less, the nearest is Cheapen(cost_ms=4) on sleepy "
        "(size 90.0 kB above 70.0 kB)"
    )
    assert misses(larger, accurate, time_up=True) == (
        "no candidate that ran holds the other limits: the nearest is Cheapen(cost_ms=4) on sleepy "
        "(size 90.0 kB above 70.0 kB); the time limit ended before all was tried: allow more time"
    )


def test_what_looks_and_measurements_showed_stands_beside_what_the_original_misses() -> None:
    judged = "Cheapen on sleepy was not certified: too few rows"
    assert misses(measured(2, size_bytes=60_000), judged=judged) == judged


def test_limits_are_told_in_the_units_of_the_report() -> None:
    assert missed([Miss("size", 229_673, 70_000), Miss("memory", 67_051_520, 1_000_000)]) == (
        "size 230 kB above 70.0 kB; memory 67.1 MB above 1.00 MB"
    )
    assert missed([Miss("latency", 0.0231, 0.00001), Miss("drop", 0.03124, 0.02)]) == (
        "latency 23.1 µs above 0.0100 µs; drop 0.03124 above 0.02"
    )
    assert missed([Miss("size", 70_001, 70_000)]) == "size just above 70.0 kB"
