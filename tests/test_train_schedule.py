"""The learning rate and the pace of a training."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.errors import TechniqueError
from paring.train.schedule import Pace, Schedule, rate_factor
from paring.train.settings import Training


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("cosine", [0.0, 0.5, 1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.0]),
        ("one-cycle", [0.04, 0.52, 1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.0]),
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.0]),
        ("step", [0.0, 0.5, 1.0, 1.0, 0.1, 0.01]),
        ("exponential", [0.0, 0.5, 1.0, 0.001**0.25, 0.001**0.5, 0.001]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_rate_rises_and_falls_as_its_schedule_has_it(schedule: Schedule, factors: list[float]) -> None:
    at = (0.0, 0.05, 0.1, 0.325, 0.55, 1.0)
    assert [rate_factor(schedule, progress, 0.1) for progress in at] == pytest.approx(factors, abs=1e-12)
    assert rate_factor(schedule, 1.2, 0.1) == pytest.approx(factors[-1], abs=1e-12)
    assert rate_factor(schedule, 0.0, 0.0) == 1.0


@given(st.sampled_from(get_args(Schedule)), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.9))
def test_after_the_warmup_it_only_falls(schedule: Schedule, one: float, other: float, warmup: float) -> None:
    earlier, later = sorted(warmup + (1 - warmup) * share for share in (one, other))
    assert 0 <= rate_factor(schedule, later, warmup) <= rate_factor(schedule, earlier, warmup) <= 1
    assert rate_factor(schedule, warmup * one, warmup) <= 1


def test_progress_is_the_larger_of_steps_and_time() -> None:
    pace = Pace(epochs=4, steps_per_epoch=10, start_s=100.0, deadline_s=200.0)
    assert pace.progress(2, 5, 110.0) == pytest.approx(25 / 40)
    assert pace.progress(2, 5, 190.0) == pytest.approx(0.9)
    assert pace.progress(3, 10, 110.0) == 1.0
    assert pace.progress(0, 0, 250.0) == 1.0


def test_without_a_length_whole_epochs_and_the_clock_tell() -> None:
    pace = Pace(epochs=2, steps_per_epoch=None, start_s=0.0, deadline_s=100.0)
    assert pace.progress(0, 500, 10.0) == pytest.approx(0.1)
    assert pace.progress(1, 3, 10.0) == pytest.approx(0.5)


def test_an_epoch_longer_than_announced_waits_at_its_end() -> None:
    assert Pace(2, 10, 0.0, None).progress(0, 25, 0.0) == pytest.approx(0.5)


def test_time_left_follows_the_pace_and_the_deadline() -> None:
    free = Pace(1, 10, 0.0, None)
    assert free.time_left_s(0.25, 30.0) == pytest.approx(90.0)
    assert free.time_left_s(0.0, 30.0) == math.inf
    assert Pace(1, 10, 0.0, 50.0).time_left_s(0.25, 30.0) == pytest.approx(20.0)


def test_a_limit_that_is_already_over_counts_as_the_end() -> None:
    assert Pace(1, 10, 5.0, 5.0).progress(0, 0, 5.0) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("warmup", 1.0),
        ("clip_norm", 0.0),
        ("precision", "int4"),
        ("optimizer", "adm"),
        ("schedule", "cosinus"),
        ("accumulate", 0),
        ("averaged", 0.6),
    ],
)
def test_settings_out_of_range_are_quoted(field: str, value: object) -> None:
    settings = {"epochs": 1, "learning_rate": 0.1, field: value}
    with pytest.raises(TechniqueError, match=f"{field}={value!r}"):
        Training(**settings)  # type: ignore[arg-type]
