"""What was tried and came to nothing, and why: groups of trials that share a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from paring.report import units
from paring.report.markup import Markup, el
from paring.report.points import TrialRow
from paring.report.records import Answer

OUTCOMES = {
    "failed": "Failed",
    "no-change": "Changed nothing, so it was no trial",
    "stopped-early": "Stopped early: it was losing",
    "skipped": "Skipped: it could not win",
}
LONGEST = 240
NUMBER = re.compile(r"\d[\d.,]*\d|\d")


@dataclass(frozen=True)
class Group:
    """Trials with one outcome and the same reason, numbers aside. `reason` has … where their numbers differ."""

    outcome: str
    reason: str
    trials: tuple[TrialRow, ...]


def grouped(trials: tuple[TrialRow, ...]) -> tuple[Group, ...]:
    """The trials that came to nothing, failures first, then by how many share a reason."""
    found: dict[tuple[str, str], list[TrialRow]] = {}
    for trial in trials:
        if trial.outcome != "measured":
            found.setdefault((trial.outcome, NUMBER.sub("0", trial.reason)), []).append(trial)
    groups = [Group(outcome, _common([t.reason for t in same]), tuple(same)) for (outcome, _), same in found.items()]
    order = list(OUTCOMES)
    return tuple(
        sorted(
            groups,
            key=lambda g: (order.index(g.outcome) if g.outcome in order else len(order), -len(g.trials), g.reason),
        )
    )


def failures_section(answer: Answer, trials: tuple[TrialRow, ...]) -> Markup:
    """A list for each outcome, folded where a reason holds for several trials; then what was never tried."""
    groups = grouped(trials)
    parts: list[Markup] = []
    for outcome in dict.fromkeys(group.outcome for group in groups):
        items = [_entry(group) for group in groups if group.outcome == outcome]
        parts += [el("h3", None, OUTCOMES.get(outcome, outcome)), el("ul", {"class": "failures"}, *items)]
    for title, told in (
        ("Not tried", answer.not_tried),
        ("Runtimes that are not available here", answer.unavailable),
    ):
        if told:
            items = [el("li", None, el("b", {"class": "recipe"}, name), " ", reason) for name, reason in told]
            parts += [el("h3", None, title), el("ul", {"class": "failures"}, *items)]
    if not parts:
        return el("p", {"class": "empty"}, "Everything that was tried ran to its end.")
    return el("div", None, *parts)


def _entry(group: Group) -> Markup:
    reason = group.reason or "no reason was recorded"
    short = shortened(reason)
    if len(group.trials) == 1 and short == reason:
        return el("li", None, el("b", None, reason), el("br"), *_named(group.trials[0]))
    varied = short != reason or len({trial.reason for trial in group.trials}) > 1
    items = []
    for trial in group.trials:
        own = el("small", None, trial.reason) if varied else ""
        items.append(el("li", None, *_named(trial), own))
    summary = el("summary", None, el("b", None, short), f" ({units.counted(len(group.trials), 'trial')})")
    return el("li", None, el("details", None, summary, el("ul", None, *items)))


def shortened(reason: str) -> str:
    """The first line of a reason, cut where it is long: messages of runtimes can fill pages."""
    line = reason.partition("\n")[0].rstrip()
    return reason if line == reason and len(line) <= LONGEST else f"{line[:LONGEST].rstrip()} …"


def _named(trial: TrialRow) -> tuple[str, ...]:
    return (el("span", {"class": "recipe"}, trial.point.chain), f" on {trial.point.backend_text}")


def _common(reasons: list[str]) -> str:
    """The shared text, with … for numbers that differ."""
    seen = [NUMBER.findall(reason) for reason in reasons]
    pieces = NUMBER.split(reasons[0])
    numbers = [column[0] if len(set(column)) == 1 else "…" for column in zip(*seen, strict=True)]
    return "".join(piece + number for piece, number in zip(pieces, [*numbers, ""], strict=True))
