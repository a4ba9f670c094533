"""Why the original is kept where no candidate even came to a look at the certification rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from paring.tune import Trial
from paring.types import Budget

NOT_COME_TO = "what the search had not come to"
"""Where `not_tried` says that the time ended first."""


def why_none(trials: Sequence[Trial], budget: Budget, not_tried: Mapping[str, str], *, time_up: bool) -> str:
    """The reason; `time_up` tells that the search ended with its time and not by itself."""
    tried = [trial for trial in trials if trial.recipe]
    if not tried and time_up:
        return "the time limit ended before anything but the original was tried: allow more time"
    if not tried:
        return f"no technique proposed anything to try for this network{_quoted(not_tried)}"
    if all(trial.drop is None for trial in tried):
        counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(t.outcome for t in tried).items())
        return f"no candidate could be measured ({counts}; the first: {tried[0].reason})"
    least = min(tried, key=_drop)
    if _drop(least) > budget.max_drop:
        return (
            f"every candidate that ran lost more than max_drop={budget.max_drop:g} allows: the least was a drop of "
            f"{_drop(least):.4f}, by {least}"
        )
    return f"no candidate kept the accuracy by enough to be certified and {_better(budget)} than the original"


def _drop(trial: Trial) -> float:
    return float("inf") if trial.drop is None else trial.drop


def _better(budget: Budget) -> str:
    if budget.objective in ("latency", "throughput"):
        return "was faster"
    return f"had less {budget.objective}, without being slower,"


def _quoted(not_tried: Mapping[str, str]) -> str:
    """What was not tried, with those of one reason together."""
    names: dict[str, list[str]] = {}
    for what, reason in not_tried.items():
        names.setdefault(reason.rstrip("."), []).append(what)
    told = "; ".join(f"{', '.join(whats)}: {reason}" for reason, whats in names.items())
    return f" ({told})" if told else ""
