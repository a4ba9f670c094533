"""The certificate with its evidence: the bound against the budget, the rows that changed, and how it was computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from paring.report import units
from paring.report.axis import Axis
from paring.report.markup import Markup, el
from paring.report.records import Answer, Certified, Look
from paring.report.story import as_sentence
from paring.report.units import ScoreUnit

SPLIT = "These rows were kept apart from the search, and each finalist was judged on the same ones as the original"
METHODS = {
    "exact": "Method: exact. Every score is right or wrong, so what is known are the counts of rows that changed; the "
    "one-sided bound holds at this very number of rows and is no normal approximation.",
    "betting": "Method: betting. Scores are bounded and of any shape; the one-sided bound rules out each larger drop "
    "because bets against it would have paid too well. It holds at this very number of rows and is no normal "
    "approximation.",
    "bootstrap": "Method: paired bootstrap, approximate. The score is no mean over rows, so the bound comes from "
    "drawing the rows again and again, and holds only as their number grows.",
}
"""What the certificate's methods are, for readers who were not there."""


def certificate_section(answer: Answer, unit: ScoreUnit) -> Markup:
    """All that backs the claim about the score; where nothing was certified, a line that says so."""
    certificate = answer.certificate
    if certificate is None:
        why = "the answer is the original itself" if answer.status == "kept-original" else "no candidate came that far"
        return el("div", None, el("p", {"class": "empty"}, f"Nothing was certified: {why}."), *_looks(answer))
    return el(
        "div",
        {"class": "certificate"},
        _line(answer, certificate, unit),
        el("div", None, *_evidence(certificate, unit, _how_often(answer.looks)), *_looks(answer)),
    )


def _looks(answer: Answer) -> list[Markup]:
    """Every look, those that refused too: a certificate is worth what was risked for it."""
    if not answer.looks and not answer.discarded_looks:
        return []
    items = [
        el(
            "li",
            None,
            el("b", None, "Certified: " if look.certified else "Not certified: "),
            el("span", {"class": "recipe"}, look.recipe.replace(" -> ", " → ")),
            f" on {look.backend_text}: {look.told}",
        )
        for look in answer.looks
    ]
    if answer.discarded_looks:
        taken = units.counted(answer.discarded_looks, "look")
        told = f"Before this run: {taken} by runs that were discarded. What is certified holds for this run alone."
        items.append(el("li", None, told))
    return [el("h3", None, "Every look at these rows"), el("ul", {"class": "failures"}, *items)]


def _how_often(looks: Sequence[Look]) -> str:
    """Who was looked at more than once, as the end of a sentence."""
    times = Counter((look.recipe, look.backend_text) for look in looks)
    again = sum(count > 1 for count in times.values())
    if not again:
        return ", once."
    return (
        f", once; {units.counted(again, 'finalist')} once more, by the same answers, at a larger share of the error "
        "that the confidence leaves, which holds what the look before had spent."
    )


def _line(answer: Answer, certificate: Certified, unit: ScoreUnit) -> Markup:
    drop, bound, budget = certificate.drop, certificate.upper_bound, answer.budget.max_drop
    known = [unit.value(value) for value in (0.0, drop, bound, budget) if value is not None]
    axis = Axis.over(known, margin=0.08)
    confidence = units.percent(certificate.confidence)
    rows = [
        _row("Drop seen", unit.drop(drop), axis, unit, drop, drop, "seen"),
        _row(f"Certified, {confidence}", f"at most {unit.bound(bound)}", axis, unit, drop, bound, "bound"),
        _row("Budget", unit.drop(budget), axis, unit, budget, budget, "budget"),
    ]
    return el("dl", {"class": "number-line"}, *rows)


def _row(
    name: str, said: str, axis: Axis, unit: ScoreUnit, start: float | None, end: float | None, style: str
) -> Markup:
    zero = el("i", {"class": "zero", "style": f"left:{100 * axis.at(0.0):.2f}%"})
    marks = [zero]
    if end is not None:
        right = 100 * axis.at(unit.value(end))
        left = 100 * axis.at(unit.value(end if start is None else min(start, end)))
        marks.append(el("i", {"class": style, "style": f"left:{left:.2f}%;width:{right - left:.2f}%"}))
    track = el("dd", {"class": "track", "aria-hidden": "true"}, *marks)
    return el("div", None, el("dt", None, name), track, el("dd", {"class": "said"}, said))


def _evidence(certificate: Certified, unit: ScoreUnit, how_often: str) -> list[Markup]:
    rows = certificate.rows
    worse, better = certificate.regressions, certificate.fixes
    told = []
    if worse is not None and better is not None:
        counts = [("got worse", worse), ("got better", better), ("scored the same", max(0, rows - worse - better))]
        items = [el("li", None, el("b", None, units.count(number)), f" {what}") for what, number in counts]
        told.append(el("p", {"class": "lead-in"}, f"Of {units.counted(rows, 'row')} that the search never saw"))
        told.append(el("ul", {"class": "counts"}, *items))
    else:
        told.append(el("p", {"class": "lead-in"}, f"Judged on {units.counted(rows, 'row')} that the search never saw"))
    told.append(el("p", None, SPLIT + how_often))
    told.append(el("p", None, METHODS.get(certificate.method, as_sentence(f"method: {certificate.method}"))))
    if certificate.finalists > 1:
        shared = f"Corrected for {certificate.finalists} finalists: the confidence holds for all of them together."
        told.append(el("p", None, shared))
    if certificate.smallest_certifiable_drop is not None:
        smallest = unit.bound(certificate.smallest_certifiable_drop)
        told.append(el("p", None, f"The smallest drop that this many rows can certify is {smallest}."))
    return told
