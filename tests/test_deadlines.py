"""The time limit: what is kept for the end, and what is in progress when the search has to end."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

import paring
from paring.data.job import Job
from paring.errors import TimeUpError
from paring.flow import conclusion, trials
from paring.flow.clock import RunClock
from paring.flow.folder import RunFolder
from paring.flow.pace import Pace
from paring.techniques.base import GraphTechnique
from paring.techniques.calibration import absolute_maxima
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.static_quantization import StaticQuantization
from tests import sleepy
from tests.quantization_nets import job, residual_net, rows


@pytest.mark.parametrize(
    ("limit_s", "look_s", "search_s"), [(1200, 0, 1140), (1200, 30, 1050), (100, 5, 60), (100, 20, 40)]
)
def test_looks_are_paid_for_out_of_the_search(limit_s: float, look_s: float, search_s: float) -> None:
    clock = RunClock(limit_s)
    clock.reserve(look_s)
    assert clock.search_limit_s == pytest.approx(search_s)
    assert clock.search_deadline_s + clock.grace_s < clock.deadline_s


def test_an_end_whose_processes_start_slowly_is_paid_for_too() -> None:
    clock = RunClock(30)
    assert clock.search_limit_s == pytest.approx(22.5)
    clock.reserve(0.0, start_s=1.5)
    assert clock.search_limit_s == pytest.approx(19)
    assert clock.grace_s == 0
    assert clock.deadline_s - clock.writing_deadline_s == pytest.approx(3)
    assert clock.conclusion_left_s() <= 19


def test_a_resumed_run_keeps_as_much_for_looks_as_the_first(tmp_path: Path) -> None:
    first, second = Pace(1.0, 0.25, 3.0), Pace(2.0, 0.5)
    assert [RunFolder(tmp_path).pace(measured) for measured in (first, second)] == [first, first]
    RunFolder(tmp_path).clear()
    assert RunFolder(tmp_path).pace(second) == second


def test_what_follows_a_training_may_use_the_grace() -> None:
    ended = replace(job(rows(4, 8)), deadline_s=time.monotonic() - 5)
    replace(ended, grace_s=60.0).check_time()
    job(rows(4, 8)).check_time()
    with pytest.raises(TimeUpError, match="the time limit ended before this was done: allow more time"):
        ended.check_time()


@pytest.mark.parametrize("technique", [StaticQuantization(), MixedPrecision()], ids=str)
def test_calibration_ends_with_the_time(technique: GraphTechnique) -> None:
    ended = replace(job(rows(16, 3, 8, 8)), deadline_s=time.monotonic() - 5)
    with pytest.raises(TimeUpError):
        technique.apply(residual_net(), ended)
    with pytest.raises(TimeUpError):
        absolute_maxima(residual_net(), [residual_net().graph.node[0].output[0]], ended)


def test_the_search_for_sensitive_layers_looks_at_the_clock_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(Job, "check_time", lambda self: looks.append(1))
    StaticQuantization().apply(residual_net(), job(rows(16, 3, 8, 8)))
    calibrating = len(looks)
    assert calibrating
    MixedPrecision().apply(residual_net(), job(rows(16, 3, 8, 8)))
    assert len(looks) >= 2 * calibrating + 4


def test_a_trial_that_the_time_cuts_short_is_none_and_the_run_concludes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleepy, "TIME_IS_UP", [])
    monkeypatch.setattr(Job, "time_left_s", lambda self: -1e9 if sleepy.TIME_IS_UP else 1e9)
    monkeypatch.setattr(conclusion, "COMPARISON_LIMIT_S", 1.0)
    monkeypatch.setattr(trials, "COMPARISON_TIME_S", 0.2)
    result = paring.optimize(
        sleepy.task(),
        out=tmp_path,
        time_limit_s=300,
        techniques=[sleepy.Cheapen(2.0), sleepy.Dawdle(1.0), sleepy.Cheapen(3.0)],
        backends=[sleepy.Sleepy()],
        threads=1,
        progress=False,
    )
    logged = (tmp_path / "trials" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["recipe_text"] for line in logged] == ["original", "Cheapen"]
    assert sleepy.TIME_IS_UP == ["Dawdle"]
    assert result.status == "improved"
    reason = "the time limit ended before this was done: allow more time."
    assert {"what": f"{sleepy.Dawdle(1.0)} on sleepy", "reason": reason} in result.values["not_tried"]
