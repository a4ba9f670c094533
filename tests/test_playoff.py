"""The playoff, on duels whose outcomes are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paring.errors import BackendError, OutputError, TimeUpError
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.tune import Candidate, Trial
from paring.tune.playoff import CLOSE, MOST_CONTENDERS, played_off
from tests.sleepy_backend import Sleepy

TRIAL = Trial.of(Candidate((), Sleepy(), "post-training"), 0, "measured")


def trials(*quick: float) -> list[Trial]:
    """Trials whose quick figures are these costs."""
    return [replace(TRIAL, key=str(i), number=i, latency_ms={"p50": cost}) for i, cost in enumerate(quick)]


def quick_cost(trial: Trial) -> float:
    assert trial.latency_ms is not None
    return trial.latency_ms["p50"]


class Truth:
    """What a long measurement says, and who met whom."""

    def __init__(self, *costs: float, fault: Exception | None = None) -> None:
        self.costs, self.fault = costs, fault
        self.met: list[tuple[int, int]] = []
        self.limits_s: list[float] = []

    def duel(self, challenger: Trial, champion: Trial, time_limit_s: float) -> Comparison:
        self.met.append((challenger.number, champion.number))
        self.limits_s.append(time_limit_s)
        if self.fault:
            raise self.fault
        ratio = self.costs[champion.number] / self.costs[challenger.number]
        latency = Latency(1.0, 1.0, 1.0, 1.0, 1)
        return Comparison(ratio, ratio, ratio, latency, latency, 0, 0, 1)


def test_the_fastest_at_length_comes_first_and_the_others_keep_their_order() -> None:
    ranked = trials(1.0, 1.02, 1.05)
    order = played_off(ranked, quick_cost, Truth(3.0, 1.0, 2.0).duel, lambda: 100.0)
    assert [trial.number for trial in order] == [1, 0, 2]


def test_each_contender_meets_the_champion_so_far() -> None:
    truth = Truth(3.0, 2.0, 1.0)
    played_off(trials(1.0, 1.02, 1.05), quick_cost, truth.duel, lambda: 100.0)
    assert truth.met == [(1, 0), (2, 1)]


def test_only_those_that_are_close_and_not_too_many_meet() -> None:
    truth = Truth(*[1.0] * 20)
    played_off(trials(1.0, CLOSE + 0.01), quick_cost, truth.duel, lambda: 100.0)
    assert truth.met == []
    played_off(trials(*[1.0] * 20), quick_cost, truth.duel, lambda: 100.0)
    assert len(truth.met) == MOST_CONTENDERS - 1


def test_its_duels_take_no_more_than_a_share_of_the_time() -> None:
    truth = Truth(*[1.0] * 4)
    played_off(trials(*[1.0] * 4), quick_cost, truth.duel, lambda: 100.0)
    assert 0 < min(truth.limits_s) <= max(truth.limits_s) <= 35
    assert played_off(trials(1.0, 1.0), quick_cost, truth.duel, lambda: 0.0)[0].number == 0
    assert len(truth.met) == 3


def test_who_can_not_be_measured_loses() -> None:
    order = played_off(
        trials(1.0, 1.01), quick_cost, Truth(2.0, 1.0, fault=BackendError("it died")).duel, lambda: 100.0
    )
    assert [trial.number for trial in order] == [0, 1]


def test_a_champion_that_can_not_be_measured_is_not_kept() -> None:
    class First(Truth):
        def duel(self, challenger: Trial, champion: Trial, time_limit_s: float) -> Comparison:
            self.fault = BackendError("it died") if champion.number == 0 else None
            return super().duel(challenger, champion, time_limit_s)

    order = played_off(trials(1.0, 1.01, 1.02, 1.03), quick_cost, First(1.0, 2.0, 2.0, 1.0).duel, lambda: 100.0)
    assert [trial.number for trial in order] == [3, 0, 1, 2]


def test_who_was_looked_at_when_the_run_came_this_far_before_stays_the_winner() -> None:
    truth = Truth(1.0, 2.0, 1.0)
    order = played_off(trials(1.0, 1.01, 1.02), quick_cost, truth.duel, lambda: 100.0, looked_at=["2", "1"])
    assert [trial.number for trial in order] == [2, 0, 1]
    assert truth.met == []


def test_time_that_ends_in_a_duel_leaves_who_stands() -> None:
    truth = Truth(1.0, 1.0, 1.0, fault=TimeUpError("over"))
    order = played_off(trials(1.0, 1.01, 1.02), quick_cost, truth.duel, lambda: 100.0)
    assert [trial.number for trial in order] == [0, 1, 2]
    assert truth.met == [(1, 0)]


def test_a_disk_that_refuses_is_no_verdict() -> None:
    with pytest.raises(OutputError):
        played_off(trials(1.0, 1.01), quick_cost, Truth(1.0, 1.0, fault=OutputError("full")).duel, lambda: 100.0)


def test_nobody_plays_alone() -> None:
    truth = Truth(1.0)
    assert played_off([], quick_cost, truth.duel, lambda: 100.0) == []
    assert played_off(trials(1.0), quick_cost, truth.duel, lambda: 100.0) == trials(1.0)
    assert truth.met == []
