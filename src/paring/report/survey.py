"""The page of `paring sensitivity`: what the parts gain and lose, and the recipe for the speed-up that was wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paring.report import units
from paring.report.document import Section, document
from paring.report.fields import Fields
from paring.report.goal import Goal
from paring.report.markup import Markup, el
from paring.report.points import TrialRow
from paring.report.records import Limits
from paring.report.sensitivity_section import sensitivity_section
from paring.report.tables import Column, table
from paring.report.units import ScoreUnit


def survey_page(values: Mapping[str, Any], trials: tuple[TrialRow, ...]) -> str:
    """The whole document, from sensitivity.json and the trials. The same folder gives the same bytes."""
    unit = ScoreUnit(0 <= values["original"]["score"] <= 1)
    limits = Limits.of(Fields({"batch_size": values["batch_size"]}))
    body = sensitivity_section(trials, Goal.of(limits), limits, unit) or Markup()
    sections = [Section("parts", "Parts", "What each layer gains and loses, taken alone", body)]
    if values["joins"]:
        sections.append(Section("joins", "Joined", "Joined, the cheapest in harm first", _joins(values, unit)))
    return document(f"{values['task']}: {_lead(values)}", lambda contents: _opening(values, contents), sections)


def _opening(values: Mapping[str, Any], contents: Markup) -> Markup:
    head = el("p", {"class": "task"}, el("b", None, "paring"), f" sensitivity of {values['task']}")
    p50 = units.latency(values["original"]["latency_ms"]["p50"])
    where = (
        f"The original takes {p50} for a batch of {values['batch_size']} on {values['backend']}, "
        f"{units.counted(values['threads'], 'thread')}. Drops are of {units.count(values['rows'])} rows, untrained."
    )
    parts = [head, el("h1", None, el("em", None, _lead(values))), el("p", {"class": "details"}, where)]
    if values["recipe"]:
        steps = [el("li", {"class": "recipe"}, el("code", None, step)) for step in values["recipe"].split(" + ")]
        parts.append(el("ol", {"class": "chain", "aria-label": "The recipe"}, *steps))
    return el("header", {"class": "improved" if values["recipe"] else ""}, *parts, contents)


def _lead(values: Mapping[str, Any]) -> str:
    if values["recipe"]:
        return f"{units.ratio(values['wanted_speedup'])} at the least harm: a training has to mend it"
    return values["reason"] or f"{units.counted(len(values['parts']), 'part')} measured, each alone"


def _joins(values: Mapping[str, Any], unit: ScoreUnit) -> Markup:
    columns: list[Column[Mapping[str, Any]]] = [
        Column("Speed-up", lambda join: units.ratio(join["speedup"]) if join["speedup"] else join["outcome"]),
        Column("Drop, untrained", lambda join: unit.drop(join["drop"])),
        Column("Recipe", lambda join: join["recipe"], style="recipe"),
    ]
    return table("Joined parts", columns, values["joins"], lambda join: "", sortable=False)
