"""Originals in one series: the times of a table can be compared with each other, however each was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paring.flow.duels import Duels, in_one_series, measured_at_length
from paring.flow.originals import Originals
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.tune import EVEN, Candidate, Speedup, Trial
from tests.sleepy_backend import Sleepy

TRIAL = Trial.of(Candidate((), Sleepy(), "baseline"), 0, "measured")
BEST = replace(TRIAL, key="best")


def original(key: str, ratio: float, quick_ms: float) -> Trial:
    """One that quick figures put at so many times the speed of the reference, when a call took so long."""
    latency = {"p50": quick_ms, "p90": 2 * quick_ms, "p99": 3 * quick_ms}
    speedup = Speedup(ratio, 0.9 * ratio, 1.1 * ratio)
    return replace(TRIAL, key=key, latency_ms=latency, throughput_per_s=1000 / quick_ms, speedup=speedup)


LUCKY, BUSY, UNLUCKY = original("lucky", 1.3, 1.0), original("busy", 1.0, 9.0), original("unlucky", 0.9, 0.5)
FAR = original("far", 0.5, 0.9)


def met(ratio: float, loser_ms: float) -> Comparison:
    """A comparison at length: the first one took so many times less than the other's time."""
    ours, theirs = (Latency(ms, 2 * ms, 3 * ms, 1000 / ms, 9) for ms in (loser_ms / ratio, loser_ms))
    return Comparison(ratio, 0.98 * ratio, 1.02 * ratio, ours, theirs, 1, 1, 9)


def placed(baseline: Trial, duels: Duels, *originals: Trial) -> dict[str, Trial]:
    found = in_one_series(Originals(originals, originals, ()), baseline, duels)
    assert [trial.key for trial in found] == [trial.key for trial in originals]
    return {trial.key: trial for trial in found}


def p50_ms(trials: dict[str, Trial]) -> dict[str, float]:
    return {key: trial.latency_ms["p50"] for key, trial in trials.items() if trial.latency_ms}


def test_what_was_beaten_at_length_is_the_fastest_whatever_quick_figures_said() -> None:
    duels = Duels()
    duels.add(BEST, LUCKY, met(2.0, 2.5))
    duels.add(BEST, BUSY, met(1.8, 2.0))
    _, beaten = measured_at_length(BEST, BUSY, met(1.8, 2.0))
    found = placed(beaten, duels, LUCKY, BUSY, UNLUCKY, FAR)
    assert p50_ms(found) == {
        "busy": 2.0,
        "lucky": pytest.approx(2.0 * 2.0 / 1.8),
        "unlucky": pytest.approx(2.0 * 2.0 / 1.8 * 1.3 / 0.9),
        "far": pytest.approx(2.0 * 2.0 / 1.8 * 1.3 / 0.5),
    }
    assert [trial.at_length for trial in found.values()] == [True, True, False, False]


def test_all_figures_of_a_row_are_of_that_series() -> None:
    duels = Duels()
    duels.add(BEST, BUSY, met(2.0, 4.0))
    _, beaten = measured_at_length(BEST, BUSY, met(2.0, 4.0))
    found = placed(beaten, duels, BUSY, FAR)
    assert found["busy"] == beaten
    assert found["far"].latency_ms == pytest.approx({"p50": 8.0, "p90": 16.0, "p99": 24.0})
    assert found["far"].throughput_per_s == pytest.approx(125.0)
    assert found["far"].speedup is not None
    assert found["far"].speedup.ratio == pytest.approx(0.5)


def test_slow_calls_of_those_that_met_are_those_of_the_meeting() -> None:
    duels = Duels()
    steady = Latency(4.0, 4.4, 4.8, 250.0, 9)
    duels.add(BEST, LUCKY, replace(met(2.2, 4.0), original=steady))
    duels.add(BEST, BUSY, met(2.0, 2.0))
    _, beaten = measured_at_length(BEST, BUSY, met(2.0, 2.0))
    assert placed(beaten, duels, LUCKY, BUSY)["lucky"].latency_ms == pytest.approx(
        {"p50": 2.2, "p90": 2.42, "p99": 2.64}
    )


def test_the_original_that_is_kept_is_the_fastest_also_of_those_that_met_others() -> None:
    """It beat the one that had beaten the luckiest."""
    duels = Duels()
    duels.add(BUSY, LUCKY, met(1.25, 3.0))
    duels.add(UNLUCKY, BUSY, met(1.1, 2.2))
    kept = duels.kept(UNLUCKY)
    assert kept.at_length
    found = placed(kept, duels, LUCKY, BUSY, UNLUCKY, FAR)
    assert p50_ms(found) == pytest.approx(
        {"unlucky": 2.0, "busy": 2.2, "lucky": 2.2 * 1.25, "far": 2.2 * 1.25 * 1.3 / 0.5}
    )
    assert [trial.at_length for trial in found.values()] == [True, True, True, False]


def test_where_nobody_met_the_quick_speed_ups_place_them() -> None:
    kept = Duels().kept(LUCKY)
    assert (kept.speedup, kept.at_length) == (EVEN, False)
    found = placed(kept, Duels(), LUCKY, BUSY)
    assert p50_ms(found) == pytest.approx({"lucky": 1.0, "busy": 1.3})
    assert not any(trial.at_length for trial in found.values())


def test_a_meeting_counts_in_both_directions() -> None:
    duels = Duels()
    assert duels.speedup(BUSY, FAR) is None
    duels.add(BUSY, FAR, met(2.0, 4.0))
    assert duels.speedup(BUSY, FAR) == Speedup(2.0, 1.96, 2.04)
    back = duels.speedup(FAR, BUSY)
    assert back is not None
    assert (back.ratio, back.low, back.high) == pytest.approx((0.5, 1 / 2.04, 1 / 1.96))


def test_one_speed_up_over_another_is_as_uncertain_as_both() -> None:
    over = Speedup(6.0, 5.0, 7.2).over(Speedup(2.0, 2.0, 2.0))
    assert (over.ratio, over.low, over.high) == pytest.approx((3.0, 2.5, 3.6))
    wider = Speedup(6.0, 5.0, 7.2).over(Speedup(2.0, 2 / 1.2, 2.4))
    assert wider.ratio == 3.0
    assert wider.low == pytest.approx(3.0 / 1.2**2**0.5)
    assert wider.high == pytest.approx(3.0 * 1.2**2**0.5)
