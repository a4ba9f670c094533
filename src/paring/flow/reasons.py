"""Why no candidate is the result: what binds, as far as it is known from what was tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from paring.errors import TechniqueError
from paring.report import units
from paring.report.failures import shortened
from paring.techniques.base import described
from paring.tune import Miss, Ranking, Trial

NOT_COME_TO = "what the search had not come to"
"""Where `not_tried` says that the time ended first."""

ACCURATE = "that keeps the accuracy by enough to be certified"

SHOWN: Mapping[str, Callable[[float], str]] = {
    "latency": units.latency,
    "size": units.size,
    "memory": units.size,
    "drop": "{:.4g}".format,
}


def check_not_all_refused(trials: Sequence[Trial], not_tried: Mapping[str, str], asked: Sequence[str]) -> None:
    """Raise TechniqueError where a search came to its end, and nothing that was asked for could be made.

    Either every candidate was refused by its own technique; or there was none, and `not_tried` tells why of those
    `asked`, or of graphs. For runs whose user gave the settings: it is these that can't be used.
    """
    tried = [trial for trial in trials if trial.recipe]
    if NOT_COME_TO in not_tried or not all(trial.refused for trial in tried):
        return
    if tried:
        reasons = dict.fromkeys(trial.reason.rstrip(".") for trial in tried)
        raise TechniqueError(f"{'; '.join(reasons)}.")
    of_these = ("graphs on ", *(f"{name} on " for name in asked))
    told = {what: reason for what, reason in not_tried.items() if what in asked or what.startswith(of_these)}
    if told:
        raise TechniqueError(f"nothing that was asked for can be tried{_quoted(told)}.")


def missed(misses: Iterable[Miss]) -> str:
    """The limits that are broken, in words."""
    return "; ".join(_missed(miss) for miss in misses)


def _missed(miss: Miss) -> str:
    value, limit = SHOWN[miss.of](miss.value), SHOWN[miss.of](miss.limit)
    return f"{miss.of} {value} above {limit}" if value != limit else f"{miss.of} just above {limit}"


@dataclass(frozen=True)
class WithoutWinner:
    """What is known where no candidate is the result.

    `originals` are those that were timed; `fitting` tells whether any technique could have been tried, `time_up` that
    the search ended with its time and not by itself.
    """

    ranking: Ranking
    trials: Sequence[Trial]
    originals: Sequence[Trial]
    not_tried: Mapping[str, str]
    fitting: bool
    time_up: bool

    def reason(self, judged: str) -> str:
        """Why, in one sentence; `judged` says why each that came to a look is none, empty where nobody did."""
        tried = [trial for trial in self.trials if trial.recipe]
        if not tried:
            return self._nothing_tried()
        ran = [trial for trial in tried if trial.drop is not None]
        parts = [judged or (self._binding(ran) if ran else f"no candidate could be measured ({_outcomes(tried)})")]
        failed = [trial for trial in tried if trial.outcome == "failed"]
        if ran and len(failed) > len(ran):
            parts.append(f"{units.counted(len(failed), 'other candidate')} failed (most often: {_commonest(failed)})")
        if self.time_up:
            parts.append("the time limit ended before all was tried: allow more time")
        return "; ".join(parts)

    def _nothing_tried(self) -> str:
        if self.time_up and self.fitting:
            return "the time limit ended before anything but the original was tried: allow more time"
        beside = (NOT_COME_TO, f"{described(())} on ")  # What is told of the original is no technique's reason.
        reasons = {what: reason for what, reason in self.not_tried.items() if not what.startswith(beside)}
        return f"no technique proposed anything to try for this network{_quoted(reasons)}"

    def _binding(self, ran: Sequence[Trial]) -> str:
        """What each side of the budget holds against those that came to a drop."""
        within = [trial for trial in ran if not self._limits(trial)]
        hopeful = [trial for trial in within if self.ranking.hopeful(trial)]
        if rivals := [trial for trial in hopeful if self.ranking.may_win(trial, self.originals)]:
            return self._unlikely("that could take the place of the original", rivals)
        if hopeful:
            best = min(hopeful, key=self.ranking.order)
            return f"no candidate {ACCURATE} {self._better}: the nearest is {best}"
        accurate = [trial for trial in ran if trial not in within and self.ranking.keeps_accuracy(trial)]
        if not within:
            return f"no candidate that ran holds the other limits: {self._nearest(accurate or ran)}"
        lossy = self._lossy(within)
        return f"{lossy}; of what loses less, {self._nearest(accurate)}" if accurate else lossy

    def _lossy(self, within: Sequence[Trial]) -> str:
        """What was seen, or is to be expected, of the drop of those that hold the other limits."""
        max_drop = self.ranking.budget.max_drop
        least = min(within, key=lambda trial: trial.drop or 0.0)
        if (least.drop or 0.0) > max_drop:
            return (
                f"every candidate that ran{self._other_limits} lost more than max_drop={max_drop:g} allows: the least "
                f"was a drop of {least.drop:.4f}, by {least}"
            )
        return self._unlikely(f"that ran{self._other_limits}", within)

    def _unlikely(self, described_as: str, trials: Sequence[Trial]) -> str:
        nearest = min(trials, key=self.ranking.likely_bound)
        return (
            f"no candidate {described_as} is likely enough to be certified at max_drop={self.ranking.budget.max_drop:g}"
            f": the nearest, {nearest}, would come to a bound of about {self.ranking.likely_bound(nearest):.4f}"
        )

    def _nearest(self, beyond: Sequence[Trial]) -> str:
        """The one that breaks the limits by the least factor."""
        nearest = min(beyond, key=lambda trial: max(miss.value / miss.limit for miss in self._limits(trial)))
        return f"the nearest is {nearest} ({missed(self.ranking.misses(nearest))})"

    def _limits(self, trial: Trial) -> list[Miss]:
        """The limits that it breaks, beside that of the drop."""
        return [miss for miss in self.ranking.misses(trial) if miss.of != "drop"]

    @property
    def _other_limits(self) -> str:
        budget = self.ranking.budget
        limits = (budget.max_latency_ms, budget.max_size_bytes, budget.max_memory_bytes)
        return " and holds the other limits" if any(limit is not None for limit in limits) else ""

    @property
    def _better(self) -> str:
        if self.ranking.about_speed:
            return "was faster than the original"
        return f"had less {self.ranking.budget.objective} than the original, without being slower"


def _outcomes(tried: Sequence[Trial]) -> str:
    """How many came to which end, with the failure that most of them share."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(trial.outcome for trial in tried).items())
    return f"{counts}; most often: {_commonest([t for t in tried if t.outcome == 'failed'] or tried)}"


def _commonest(trials: Sequence[Trial]) -> str:
    """The reason that most of them share, the first of equals."""
    return shortened(Counter(trial.reason for trial in trials).most_common(1)[0][0]).rstrip(".")


def _quoted(not_tried: Mapping[str, str]) -> str:
    """What was not tried, with those of one reason together."""
    names: dict[str, list[str]] = {}
    for what, reason in not_tried.items():
        names.setdefault(reason.rstrip("."), []).append(what)
    told = "; ".join(f"{', '.join(whats)}: {reason}" for reason, whats in names.items())
    return f" ({told})" if told else ""
