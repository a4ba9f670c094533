"""Who wins: looks at the certification rows and measurements at length in turn, until a candidate passes both.

A look is paid for with confidence and there are few, so the next one waits until the last one's candidate is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from paring.certify import Certificate
from paring.errors import OutputError, ParingError, TimeUpError
from paring.flow.clock import RunClock
from paring.flow.duels import measured_at_length
from paring.flow.finalists import Finals
from paring.flow.ledger import EARLY_SHARE, FINAL_SHARE, Finalist
from paring.flow.originals import Originals
from paring.flow.reasons import missed
from paring.measure.compare import Comparison
from paring.report import units
from paring.tune import Candidate, Ranking, Trial
from paring.tune.playoff import Duel, played_off

COMPARISON_SHARE = 0.4
"""Of the time that is left, for the comparison that the answer rests on."""


@dataclass(frozen=True)
class Winner:
    """A certified finalist that is better than the original: `trial` and `original` with the figures of their duel.

    `passed_over` says why others, which came before it, are not the result; empty where it came first.
    """

    trial: Trial
    original: Trial
    certificate: Certificate
    comparison: Comparison
    passed_over: str = ""


@dataclass(frozen=True)
class Choosing:
    """The choice among `trials`, by key, of the `candidates`; `meet` measures two of them at length."""

    ranking: Ranking
    originals: Originals
    trials: Mapping[str, Trial]
    candidates: Mapping[str, Candidate]
    finals: Finals
    meet: Duel
    clock: RunClock

    def winner(self) -> Winner | str:
        """What to return instead of the original, or why each that came so far is none; empty where nobody did."""
        reasons: list[str] = []
        for judged in self._judged():
            if isinstance(judged, Winner):
                return replace(self._tightened(judged), passed_over=_in_one(reasons))
            reasons.append(judged)
        return _in_one(reasons)

    def _judged(self) -> Iterator[Winner | str]:
        """The finalists, each with its flaw or as the winner: those of new looks, then those looked at before."""
        keys: set[str] = set()
        for trial, found in self._looks():
            if isinstance(found, Finalist):
                keys.add(trial.key)
                yield self._verdict(trial, found)
            else:
                yield found
        for finalist in self.finals.seen:
            if finalist.key in self.trials and finalist.key not in keys:
                yield self._verdict(self.trials[finalist.key], finalist)

    def _looks(self) -> Iterator[tuple[Trial, Finalist | str]]:
        """Looks at the candidates from the best on, as long as one is asked for; ends with why no more are possible."""
        failed = float("inf")
        for trial in self._ranked():
            found: Finalist | str | None = self._judged_before(trial)
            if found is None and not self._worth_a_look(trial, failed):
                continue
            found = found or self._look(trial)
            yield trial, found
            if isinstance(found, str):
                return
            if not found.certified:
                failed = self.ranking.likely_bound(trial)

    def _look(self, trial: Trial) -> Finalist | str:
        """A look at the certification rows, or why none is possible."""
        try:
            finalist = self.finals.look(self.candidates[trial.key], self.finals.next_share)
        except TimeUpError as error:
            return f"{trial} was not certified: {error}"
        return finalist or (
            f"no look at the certification rows is left for {trial}: give evaluate new rows, since looks at the same "
            "ones would not be independent"
        )

    def _ranked(self) -> list[Trial]:
        """The candidates that may win, the best first; where cost is time, those that are close have met."""
        pool = [t for t in self.trials.values() if t.recipe and self.ranking.hopeful(t)]
        pool = [t for t in pool if self.ranking.may_win(t, self.originals.timed)]
        ranked = sorted(pool, key=self.ranking.order)
        if not self.ranking.about_speed:
            return ranked
        looked_at = [finalist.key for finalist in self.finals.seen if finalist.share > EARLY_SHARE]
        return played_off(ranked, self.ranking.cost, self.meet, self.clock.conclusion_left_s, looked_at)

    def _judged_before(self, trial: Trial) -> Finalist | None:
        """What an earlier look certified, so that nothing more is spent on it yet, or what a final one showed."""
        seen = (finalist for finalist in self.finals.seen if finalist.key == trial.key)
        return next((finalist for finalist in seen if finalist.certified or finalist.share > EARLY_SHARE), None)

    def _worth_a_look(self, trial: Trial, failed: float) -> bool:
        """Whether it is likelier to be certified than what `failed`, and for a last look likely."""
        hoped = self.finals.next_share >= FINAL_SHARE or self.ranking.feasible(trial)
        return hoped and self.ranking.likely_bound(trial) < failed

    def _verdict(self, trial: Trial, finalist: Finalist) -> Winner | str:
        """The winner, or why it is none."""
        if finalist.certificate is None or not finalist.certified:
            return f"{trial} was not certified: {finalist.told}"
        try:
            winner = self._duel(trial, finalist.certificate)
        except OutputError:
            raise  # A disk that refuses is no verdict on the candidate.
        except ParingError as error:
            return f"{trial} failed when it was measured at length: {error}"
        return self._flaw(winner) or winner

    def _tightened(self, winner: Winner) -> Winner:
        """With a bound at what is left for a look, where that is more than its own look had: it costs no new scores."""
        with suppress(TimeUpError):
            finalist = self.finals.look(self.candidates[winner.trial.key], self.finals.next_share)
            if finalist is not None and finalist.certificate is not None and finalist.certified:
                return replace(winner, certificate=finalist.certificate)
        return winner

    def _duel(self, trial: Trial, certificate: Certificate) -> Winner:
        """Measured at length against each original that may be the fastest; the least favourable one counts."""
        near = self.originals.nearly_fastest(self.ranking)
        limit_s = COMPARISON_SHARE * self.clock.left_s() / len(near)
        found = [(self.meet(trial, rival, limit_s), rival) for rival in near]
        comparison, rival = min(found, key=lambda pair: pair[0].low)
        return Winner(*measured_at_length(trial, rival, comparison), certificate, comparison)

    def _flaw(self, winner: Winner) -> str:
        """Why a certified candidate is no winner; empty where it is one."""
        trial, original, comparison = winner.trial, winner.original, winner.comparison
        if misses := self.ranking.misses(trial):
            return f"{trial} missed the budget when it was measured at length: {missed(misses)}"
        if self.originals.broken:
            return ""
        times = f"{comparison.ratio:.3f}x ({comparison.low:.3f} to {comparison.high:.3f})"
        if self.ranking.about_speed:
            return "" if comparison.faster else f"{trial} was not faster than the {original} at length: {times}"
        if not comparison.not_slower:
            return f"{trial} was slower than the {original} at length: {times}"
        if self.ranking.less(trial, original):
            return ""
        costs = [units.size(self.ranking.cost(t)) for t in (trial, original)]
        objective = self.ranking.budget.objective
        return f"{trial} had no clearly smaller {objective} than the {original} at length: {costs[0]} to {costs[1]}"


def _in_one(reasons: Sequence[str]) -> str:
    """Several reasons as one sentence."""
    return "; ".join(reasons).replace(".; ", "; ")
