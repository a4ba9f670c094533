"""Who wins, where it is known what a look shows and what a measurement at length says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from paring.certify import Certificate
from paring.errors import BackendError, OutputError, TimeUpError
from paring.flow.choosing import Choosing, Winner
from paring.flow.clock import RunClock
from paring.flow.finalists import Finals
from paring.flow.ledger import EARLY_SHARE, FINAL_SHARE, LAST_SHARE, Finalist, Ledger
from paring.flow.originals import Originals
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.tune import Candidate, Ranking, Speedup, Trial
from paring.types import Budget
from tests.sleepy import Cheapen
from tests.sleepy_backend import Drowsy, Sleepy

CANDIDATES = {str(number): Candidate((Cheapen(float(number)),), Sleepy(), "post-training") for number in range(1, 5)}
ORIGINAL = Candidate((), Sleepy(), "baseline")


def trial(of: Candidate, ratio: float = 1.0, size: int = 1000, memory: int = 1000, deviation: float = 0.0) -> Trial:
    """A trial of which this is known by quick figures."""
    return replace(
        Trial.of(of, 0, "measured"),
        speedup=Speedup(ratio, ratio * 0.97, ratio * 1.03),
        latency_ms={"p50": 10 / ratio},
        size_bytes=size,
        peak_memory_bytes=memory,
        drop=0.0,
        drop_deviation=deviation,
        rows=1000,
    )


class Known(Finals):
    """Certifies all but `refused`, or fails; `looks` are those that were paid for."""

    def __init__(self, refused: Collection[str] = (), fault: Exception | None = None, **before: float) -> None:
        self._ledger = Ledger()
        self.refused = {CANDIDATES[name].key for name in refused}
        self.fault = fault
        for name, share in before.items():
            self._show(CANDIDATES[name.strip("_")].key, share)
        self.looks: list[tuple[Candidate, float]] = []

    def look(self, candidate: Candidate, share: float) -> Finalist | None:
        earlier = self._ledger.of(candidate.key)
        if share <= 0 or (earlier and earlier.share >= share):
            return earlier
        if self.fault:
            raise self.fault
        self.looks.append((candidate, share))
        return self._show(candidate.key, share)

    def _show(self, key: str, share: float) -> Finalist:
        certificate = Certificate(0.0, 0.005 / share, 0.95, 1000, "exact")
        finalist = Finalist(key, share, certificate, "", certified=key not in self.refused)
        self._ledger = self._ledger.with_look(finalist)
        return finalist


@dataclass
class Choice:
    """A choice among trials by the names of CANDIDATES; `at_length` holds each one's speed-up, memory or failure."""

    trials: Mapping[str, Trial]
    at_length: Mapping[str, float | Exception] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    finals: Known = field(default_factory=Known)
    originals: tuple[Trial, ...] = (trial(ORIGINAL),)
    budget: dict[str, Any] = field(default_factory=lambda: {"objective": "size"})

    def made(self) -> Winner | str:
        ranking = Ranking(Budget(**self.budget), 7000, 0.97)
        trials = {t.key: t for t in self.trials.values()}
        candidates = {c.key: c for c in CANDIDATES.values()}
        originals = Originals.of(self.originals, ranking, 100.0)
        return Choosing(ranking, originals, trials, candidates, self.finals, self.meet, RunClock(100.0)).winner()

    def meet(self, one: Trial, other: Trial, time_limit_s: float) -> Comparison:
        name = next(name for name, candidate in CANDIDATES.items() if candidate.key == one.key)
        ratio = self.at_length.get(name, one.speedup.ratio if one.speedup else 1.0)
        if isinstance(ratio, Exception):
            raise ratio
        ours, theirs = Latency(10 / ratio, 1.0, 1.0, 1.0, 1), Latency(10.0, 1.0, 1.0, 1.0, 1)
        memory = self.memory.get(name, one.peak_memory_bytes or 0)
        return Comparison(ratio, ratio * 0.99, ratio * 1.01, ours, theirs, memory, other.peak_memory_bytes or 0, 10)

    @property
    def looks(self) -> list[tuple[str, float]]:
        names = {candidate.key: name for name, candidate in CANDIDATES.items()}
        return [(names[candidate.key], share) for candidate, share in self.finals.looks]


def sized(**sizes: int) -> dict[str, Trial]:
    """Candidates as fast as the original, by the bytes of their files."""
    return {name.strip("_"): trial(CANDIDATES[name.strip("_")], size=size) for name, size in sizes.items()}


def won(choice: Choice) -> str:
    winner = choice.made()
    assert isinstance(winner, Winner), winner
    return next(name for name, candidate in CANDIDATES.items() if candidate.key == winner.trial.key)


@pytest.mark.parametrize("flaw", [0.9, BackendError("it died")], ids=["slower", "dies"])
def test_one_that_is_certified_and_has_a_flaw_leads_to_the_next_look(flaw: float | Exception) -> None:
    choice = Choice(sized(_1=100, _2=200, _3=300), at_length={"1": flaw})
    assert won(choice) == "2"
    assert choice.looks == [("1", FINAL_SHARE), ("2", LAST_SHARE)]


def test_one_that_misses_a_limit_at_length_leads_to_the_next_look() -> None:
    budget = {"objective": "size", "max_latency_ms": 10.5}
    choice = Choice(sized(_1=100, _2=200), at_length={"1": 0.94}, budget=budget)
    assert won(choice) == "2"
    missed = Choice(sized(_1=100), at_length={"1": 0.94}, budget=budget).made()
    assert missed == "Cheapen(cost_ms=1.0) on sleepy missed the budget when it was measured at length: " + (
        "latency 10.6 ms above 10.5 ms"
    )


def test_the_winner_is_looked_at_and_nobody_after_it() -> None:
    choice = Choice(sized(_1=100, _2=200))
    assert won(choice) == "1"
    assert choice.looks == [("1", FINAL_SHARE)]


def test_no_look_is_spent_on_what_quick_figures_show_to_be_slower() -> None:
    slow = trial(CANDIDATES["1"], ratio=0.5, size=10)
    choice = Choice({"1": slow, **sized(_2=200)})
    assert won(choice) == "2"
    assert choice.looks == [("2", FINAL_SHARE)]


def test_the_original_on_the_fastest_backend_is_the_one_to_be_as_fast_as() -> None:
    fast = replace(trial(replace(ORIGINAL, backend=Drowsy()), ratio=2.0), number=1)
    between = trial(CANDIDATES["1"], ratio=1.5, size=10)
    choice = Choice({"1": between, "2": trial(CANDIDATES["2"], 2.0, 20)}, originals=(trial(ORIGINAL), fast))
    choice.at_length = {"2": 1.0}
    assert won(choice) == "2"
    assert choice.looks == [("2", FINAL_SHARE)]


def test_of_equal_files_the_faster_is_looked_at_first() -> None:
    choice = Choice({"1": trial(CANDIDATES["1"], 1.2, 100), "2": trial(CANDIDATES["2"], 1.6, 100)})
    assert won(choice) == "2"


def test_where_the_original_breaks_a_limit_slower_ones_may_win() -> None:
    slow = trial(CANDIDATES["1"], ratio=0.5, size=10)
    assert won(Choice({"1": slow}, budget={"objective": "size", "max_size_bytes": 500})) == "1"


def remembered(memory: int) -> dict[str, Trial]:
    return {"1": trial(CANDIDATES["1"], memory=memory)}


def test_less_memory_by_no_more_than_noise_is_no_gain() -> None:
    budget = {"objective": "memory"}
    assert Choice(remembered(970), budget=budget).made() == ""
    choice = Choice(remembered(900), memory={"1": 970}, budget=budget)
    assert choice.made() == (
        "Cheapen(cost_ms=1.0) on sleepy had no clearly smaller memory than the original on sleepy at length: "
        "970 B to 1.00 kB"
    )
    assert won(Choice(remembered(900), memory={"1": 940}, budget=budget)) == "1"


def test_nothing_more_is_spent_on_what_was_certified_early_unless_it_wins() -> None:
    early = Choice(sized(_1=100, _2=200), at_length={"1": 0.9}, finals=Known(_1=EARLY_SHARE))
    assert won(early) == "2"
    assert early.looks == [("2", FINAL_SHARE)]
    early = Choice(sized(_1=100, _2=200), finals=Known(_1=EARLY_SHARE))
    winner = early.made()
    assert early.looks == [("1", FINAL_SHARE)]
    assert isinstance(winner, Winner)
    assert winner.certificate.upper_bound == 0.005 / FINAL_SHARE


def test_after_one_that_was_not_certified_the_next_look_is_at_a_likelier_one() -> None:
    trials = {
        "1": trial(CANDIDATES["1"], size=100, deviation=0.2),
        "2": trial(CANDIDATES["2"], size=200, deviation=0.3),
        "3": trial(CANDIDATES["3"], size=300, deviation=0.1),
    }
    choice = Choice(trials, finals=Known(refused=["1"]))
    assert won(choice) == "3"
    assert choice.looks == [("1", FINAL_SHARE), ("3", LAST_SHARE)]


def test_a_run_that_is_repeated_keeps_its_winner_and_spends_nothing() -> None:
    """Its chance was fair, which is too little for the last look, and it was certified at the first."""
    lucky = trial(CANDIDATES["1"], size=100, deviation=0.43)
    choice = Choice({"1": lucky, **sized(_2=200)}, finals=Known(_1=FINAL_SHARE))
    ranking = Ranking(Budget(), 7000, 0.97)
    assert ranking.hopeful(lucky)
    assert not ranking.feasible(lucky)
    assert won(choice) == "1"
    assert choice.looks == []


def test_a_run_that_was_cut_after_its_looks_tells_all_that_they_showed() -> None:
    """Who was refused had a fair chance, which is too little for the last look, and came first."""
    trials = {"1": trial(CANDIDATES["1"], size=100, deviation=0.43), **sized(_2=200)}
    whole = Choice(trials, finals=Known(refused=["1"])).made()
    cut = Choice(trials, finals=Known(refused=["1"], _1=FINAL_SHARE, _2=LAST_SHARE))
    assert isinstance(whole, Winner)
    assert whole.passed_over.startswith("Cheapen(cost_ms=1.0) on sleepy was not certified")
    assert cut.made() == whole
    assert cut.looks == []


def test_all_that_came_so_far_is_told() -> None:
    trials = {**sized(_1=100, _3=300), "2": trial(CANDIDATES["2"], size=200, deviation=0.1)}
    reason = Choice(trials, at_length={"1": 0.9}, finals=Known(refused=["2"])).made()
    assert isinstance(reason, str)
    assert reason.startswith(
        "Cheapen(cost_ms=1.0) on sleepy was slower than the original on sleepy at length: 0.900x (0.891 to 0.909); "
        "Cheapen on sleepy was not certified: "
    )
    assert "; no look at the certification rows is left for Cheapen(cost_ms=3.0) on sleepy: " in reason


def test_where_speed_is_asked_for_it_must_be_faster() -> None:
    reason = Choice({"1": trial(CANDIDATES["1"], 1.2)}, at_length={"1": 1.005}, budget={"objective": "latency"}).made()
    assert reason == (
        "Cheapen(cost_ms=1.0) on sleepy was not faster than the original on sleepy at length: 1.005x (0.995 to 1.015)"
    )


def test_time_that_ends_in_a_look_leaves_who_was_certified_before() -> None:
    over = TimeUpError("the time limit ended: allow more time.")
    choice = Choice(sized(_1=100, _2=200), finals=Known(fault=over))
    assert choice.made() == ("Cheapen(cost_ms=1.0) on sleepy was not certified: the time limit ended: allow more time.")
    choice.finals = Known(fault=over, _2=EARLY_SHARE)
    assert won(choice) == "2"


def test_the_winner_says_why_those_before_it_are_not_the_result() -> None:
    first = Choice(sized(_1=100, _2=200)).made()
    assert isinstance(first, Winner)
    assert first.passed_over == ""
    over = TimeUpError("the time limit ended: allow more time.")
    second = Choice(sized(_1=100, _2=200), finals=Known(fault=over, _2=EARLY_SHARE)).made()
    assert isinstance(second, Winner)
    assert second.passed_over == (
        "Cheapen(cost_ms=1.0) on sleepy was not certified: the time limit ended: allow more time."
    )


def test_a_disk_that_refuses_is_no_verdict() -> None:
    with pytest.raises(OutputError):
        Choice(sized(_1=100), at_length={"1": OutputError("full")}).made()


def test_originals_that_are_nearly_as_fast_are_met_too() -> None:
    """A figure may be lucky: what is beaten must be the fastest, not the luckiest."""
    ranking = Ranking(Budget(), 7000, 0.97)
    lucky, usual, slow = (
        replace(trial(ORIGINAL, ratio), number=number, speedup=Speedup(ratio, low, high))
        for number, (ratio, low, high) in enumerate([(1.12, 0.97, 1.29), (0.98, 0.92, 1.05), (0.68, 0.66, 0.69)])
    )
    assert Originals.of([slow, usual, lucky], ranking, 100.0).nearly_fastest(ranking) == [lucky, usual]
