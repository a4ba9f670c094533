"""Why the original is kept where nobody came to a look: each case has a reason of its own, and it is true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paring.flow.reasons import why_none
from paring.tune import Candidate, Trial
from paring.types import Budget
from tests.sleepy import Cheapen
from tests.sleepy_backend import Sleepy

ORIGINAL = Trial.of(Candidate((), Sleepy(), "baseline"), 0, "measured")
FAILED = Trial.of(Candidate((Cheapen(),), Sleepy(), "post-training"), 1, "failed", "it died")
LOSSY = replace(FAILED, outcome="stopped-early", drop=0.2, reason="too much")
KEPT = replace(FAILED, outcome="measured", drop=0.01, reason="")


def reason(*trials: Trial, time_up: bool = False, not_tried: dict[str, str] | None = None, **budget: Any) -> str:
    return why_none([ORIGINAL, *trials], Budget(**budget), not_tried or {}, time_up=time_up)


def test_nothing_was_proposed() -> None:
    assert reason() == "no technique proposed anything to try for this network"
    not_tried = {"Prune": "the task is a graph.", "Int8": "it is quantized.", "Remove": "the task is a graph."}
    assert reason(not_tried=not_tried) == (
        "no technique proposed anything to try for this network (Prune, Remove: the task is a graph; "
        "Int8: it is quantized)"
    )


def test_the_time_was_up() -> None:
    told = "the time limit ended before anything but the original was tried: allow more time"
    assert reason(time_up=True, not_tried={"Prune": "the task is a graph."}) == told


def test_nothing_could_be_measured() -> None:
    skipped = replace(FAILED, outcome="skipped", reason="hopeless")
    told = "no candidate could be measured (2 failed, 1 skipped; the first: it died)"
    assert reason(FAILED, FAILED, skipped) == reason(FAILED, FAILED, skipped, time_up=True) == told


def test_everything_lost_too_much() -> None:
    assert reason(FAILED, LOSSY, replace(LOSSY, outcome="measured", drop=0.0312), max_drop=0.02) == (
        "every candidate that ran lost more than max_drop=0.02 allows: the least was a drop of 0.0312, by "
        "Cheapen on sleepy"
    )


@pytest.mark.parametrize(
    ("objective", "better"),
    [("latency", "was faster"), ("throughput", "was faster"), ("size", "had less size, without being slower,")],
)
def test_nothing_was_better(objective: str, better: str) -> None:
    told = f"no candidate kept the accuracy by enough to be certified and {better} than the original"
    assert reason(LOSSY, KEPT, objective=objective) == told
