"""What could keep a run beyond its time limit: a metric that is slow to reduce, a runtime that hangs, its own end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

import paring
from paring.backends import process
from paring.backends.base import Backend
from paring.backends.probe import Probe
from paring.errors import BudgetError, TimeUpError
from paring.flow import conclusion
from paring.flow.duels import Duels
from paring.flow.pace import TIMED_SCORES
from paring.flow.plan import make_plan
from paring.flow.request import Executor, Request
from paring.flow.result import Result
from paring.techniques.base import Technique
from paring.types import Array, Budget, CorpusMetric, Task
from tests import sleepy
from tests.moved_clock import Clock
from tests.sleepy_backend import Comatose
from tests.test_time_limit import imagined, shares

ROWS, CERTIFIED = 1500, 1125
CALLS = 1 + 2000 + 50
"""Of a metric's reduce in one network's bootstrap."""

REDUCE_S = 0.02
LEAST_S = 206
GOOD, LOSSY = sleepy.Cheapen(2.0), sleepy.Cheapen(1.0, damage=0.4)


def optimized(out: Path, task: Task, *techniques: Technique, limit_s: float, **others: Any) -> Result:
    options = {"backends": [sleepy.Sleepy()], "threads": 1, "progress": False, **others}
    return paring.optimize(task, out=out, time_limit_s=limit_s, techniques=techniques, **options)


def not_tried(result: Result) -> dict[str, str]:
    return {row["what"]: row["reason"] for row in result.values["not_tried"]}


def slow_metric(clock: Clock, calls: list[int] | None = None) -> Task:
    """A task whose metric takes REDUCE_S for any rows, and writes down how many they were."""

    def statistics(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(1) == targets).float()[:, None]

    def reduce(rows: Array) -> float:
        clock.now_s += REDUCE_S
        if calls is not None:
            calls.append(len(rows))
        return float(rows.mean())

    points, classes = sleepy.rows(ROWS)
    batches = list(zip(points.split(100), classes.split(100), strict=True))
    return Task(sleepy.network(), batches, metric=CorpusMetric(statistics, reduce))


def delayed(clock: Clock, trial_s: float) -> Executor:
    """Every trial takes so long; only the original's are run."""

    def executor(run: Callable[..., Any], asked: Any) -> Any:
        for candidate in asked:
            clock.now_s += trial_s
            yield imagined(candidate) if candidate.recipe else run(candidate)

    return executor


def test_a_metric_too_slow_for_the_limit_is_refused_with_the_least_one_that_holds_it(
    tmp_path: Path, clock: Clock
) -> None:
    began_s, task = clock.now_s, slow_metric(clock)
    says = (
        r"time_limit_s=60 is too short for this metric: its reduce takes 20 ms for 1125 rows here, and a certificate "
        rf"needs it {CALLS} times for each of two networks, which takes 82 s\. Allow at least {LEAST_S} s"
    )
    with pytest.raises(BudgetError, match=says):
        optimized(tmp_path, task, GOOD, limit_s=60)
    assert clock.now_s - began_s < 6
    backends = [sleepy.Sleepy()]
    with pytest.raises(BudgetError, match=says):
        make_plan(Request(task, Budget(), tmp_path, 60.0, techniques=[GOOD], backends=backends, threads=1))


def test_the_least_limit_holds_the_certificate_after_a_search_that_took_all_its_time(
    tmp_path: Path, clock: Clock
) -> None:
    began_s = clock.now_s
    others = [sleepy.Cheapen(20.0 + number) for number in range(9)]
    result = optimized(tmp_path, slow_metric(clock), GOOD, *others, limit_s=LEAST_S, executor=delayed(clock, 20.0))
    assert len(result.trials) < 2 + len(others)
    assert result.status == "improved"
    assert clock.now_s - began_s <= 1.1 * LEAST_S


def test_a_bootstrap_serves_every_look_at_its_network(tmp_path: Path, clock: Clock) -> None:
    calls: list[int] = []
    result = optimized(tmp_path, slow_metric(clock, calls), GOOD, limit_s=600)
    assert result.values["first_certified_s"] < 300, "no early look was taken"
    assert shares(tmp_path) == [0.1, 0.6]
    assert sum(rows > 0.9 * CERTIFIED for rows in calls) == 2 * CALLS + TIMED_SCORES


def test_a_look_that_the_metric_leaves_no_time_for_is_not_begun(tmp_path: Path, clock: Clock) -> None:
    began_s = clock.now_s
    result = optimized(tmp_path, slow_metric(clock), GOOD, limit_s=LEAST_S, executor=delayed(clock, 70.0))
    assert result.status == "kept-original"
    told = "has no room for its look at the certification rows (1125 of them and the calls of the metric's reduce would"
    assert told in result.reason
    assert not list((tmp_path / "trials" / "looks").glob("*.npy"))
    assert clock.now_s - began_s <= 1.1 * LEAST_S


@pytest.fixture
def comatose(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Comatose:
    """As soon as it hangs, whoever waits for it has waited."""
    began, readable = tmp_path / "began", process._readable

    def probed(backends: Collection[Backend], *, time_limit_s: float) -> tuple[Probe, ...]:
        return tuple(Probe(backend.name, None, precisions=("f32",)) for backend in backends)

    monkeypatch.setattr("paring.flow.prepare.probe", probed)

    def answers(pipe: int, time_limit_s: float) -> bool:
        while not readable(pipe, 0.05):
            if began.exists():
                began.unlink()
                clock.now_s += time_limit_s
                return False
        return True

    monkeypatch.setattr(process, "_readable", answers)
    return Comatose(str(began))


def test_a_runtime_that_hangs_ends_with_the_search_and_is_told(
    tmp_path: Path, clock: Clock, comatose: Comatose
) -> None:
    began_s = clock.now_s
    result = optimized(tmp_path / "out", sleepy.task(), GOOD, limit_s=60, backends=[sleepy.Sleepy(), comatose])
    assert clock.now_s - began_s <= 1.1 * 60
    assert result.status == "kept-original"
    assert [trial.backend_text for trial in result.trials] == ["sleepy"]
    reason = f"the time limit ended before {comatose} answered 'load': allow more time."
    assert not_tried(result) == {
        f"original on {comatose}": reason,
        "what the search had not come to": (
            "the time limit ended in its stage 'baseline', with 1 tried: allow more time."
        ),
    }
    assert reason in unescape(result.report.read_text())


def test_where_the_original_does_not_load_in_time_the_limit_is_refused(
    tmp_path: Path, clock: Clock, comatose: Comatose
) -> None:
    began_s = clock.now_s
    with pytest.raises(BudgetError, match=r"time_limit_s=60 is too short for the original: the time limit ended"):
        optimized(tmp_path / "out", sleepy.task(), GOOD, limit_s=60, backends=[comatose])
    assert clock.now_s - began_s <= 1.1 * 60


def test_the_original_is_measured_also_where_preparing_took_the_time_of_the_search(
    tmp_path: Path, clock: Clock
) -> None:
    began_s, clock.row_s, clock.once_s = clock.now_s, 0.019, 20.0
    result = optimized(tmp_path, sleepy.task(), GOOD, limit_s=60)
    assert result.reason == "the time limit ended before anything but the original was tried: allow more time"
    assert [trial.recipe_text for trial in result.trials] == ["original"]
    assert clock.now_s - began_s <= 1.1 * 60


@pytest.mark.parametrize(("limit_s", "probing_s"), [(60.0, 30.0), (3600.0, 120.0)])
def test_a_probe_leaves_half_of_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float, probing_s: float
) -> None:
    def probed(backends: Collection[Backend], *, time_limit_s: float) -> tuple[Probe, ...]:
        raise TimeUpError(f"{time_limit_s} s")

    monkeypatch.setattr("paring.flow.prepare.probe", probed)
    with pytest.raises(TimeUpError, match=f"^{probing_s} s$"):
        optimized(tmp_path, sleepy.task(), GOOD, limit_s=limit_s)


def test_a_run_whose_processes_start_slowly_keeps_the_time_that_its_end_takes(tmp_path: Path, clock: Clock) -> None:
    limit_s, clock.start_s, began_s = 60.0, 3.0, clock.now_s
    others = [sleepy.Cheapen(20.0 + number) for number in range(12)]
    result = optimized(tmp_path, sleepy.task(), GOOD, LOSSY, *others, limit_s=limit_s, budget=Budget(max_drop=0.28))
    assert limit_s / 2 < clock.now_s - began_s <= limit_s
    assert result.status == "improved"
    assert [artifact.manifest.recipe_text for artifact in result.frontier][-2:] == ["Cheapen", "original"]
    assert len(result.trials) < 3 + len(others), "the search was to use its time"


def test_what_the_answer_can_do_without_is_left_out_where_its_time_ends_and_told(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison that the answer rests on takes nearly all that was left: neither of the others is waited for."""
    at_length = conclusion.compare

    def compare(*pair: Any, **settings: Any) -> Any:
        found = at_length(*pair, **settings)
        clock.now_s = pair[0].deadline_s - 1.0
        return found

    monkeypatch.setattr(conclusion, "compare", compare)
    # As where the model as it came runs elsewhere than the original that was beaten: here it has met the result before.
    monkeypatch.setattr(Duels, "speedup", lambda *_: None)
    clock.start_s = 2.5
    result = optimized(tmp_path, sleepy.task(), GOOD, LOSSY, limit_s=60, budget=Budget(max_drop=0.28))
    assert result.status == "improved"
    assert result.values["speedup_over_source"] is None
    assert {"a comparison of the result with the model as it came", f"{LOSSY} on sleepy in frontier/"} == set(
        not_tried(result)
    )
    assert [artifact.manifest.recipe_text for artifact in result.frontier] == ["Cheapen", "original"]
