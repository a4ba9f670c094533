"""Coverage by layer: what each technique changed, what it left alone, and why."""

from __future__ import annotations

from collections.abc import Sequence

from paring.report import units
from paring.report.markup import Markup, el
from paring.report.records import Answer
from paring.types import NEEDS_MODULE, Coverage, LayerChange

FOLDED_FROM = 16
"""Tables with at least so many layers start folded."""


def layers_section(answer: Answer) -> Markup:
    """A line for each technique, then the layers one by one."""
    skipped = _skipped(answer)
    if not answer.coverage:
        why = "no candidate was chosen" if answer.status == "infeasible" else "the answer is the network as it came"
        return el("div", None, el("p", {"class": "empty"}, f"No technique was applied: {why}."), skipped)
    summaries = [_summary(coverage) for coverage in answer.coverage]
    return el("div", None, el("ul", {"class": "shares"}, *summaries), _by_layer(answer.coverage), skipped)


def _skipped(answer: Answer) -> Markup:
    """Techniques that the task rules out because it is a graph."""
    names = [what for what, reason in answer.not_tried if reason == NEEDS_MODULE]
    if not names:
        return Markup()
    told = "Left out, since the task is a graph and they change modules: "
    return el("p", None, told, el("span", {"class": "recipe"}, ", ".join(names)), ".")


def _summary(coverage: Coverage) -> Markup:
    parameters, macs = coverage.share("parameters"), coverage.share("macs")
    head = f" changed {coverage.changed} of {units.counted(len(coverage.layers), 'layer')}"
    bars = [_share("of the parameters", parameters), _share("of the MACs", macs)]
    untouched = [el("li", None, told) for told in _left_alone(coverage)]
    reasons = el("ul", {"class": "reasons"}, *untouched) if untouched else ""
    return el("li", None, el("p", None, el("b", {"class": "recipe"}, coverage.technique), head), *bars, reasons)


def _share(what: str, share: float) -> Markup:
    bar = el("i", {"class": "bar c0", "style": f"width:{100 * share:.1f}%"})
    return el(
        "p", {"class": "share"}, el("span", {"class": "track"}, bar), el("b", None, units.percent(share)), f" {what}"
    )


def _left_alone(coverage: Coverage) -> list[str]:
    """One line for each reason, with how many layers it holds for."""
    layers: dict[str, list[str]] = {}
    for layer in coverage.layers:
        if not layer.changed:
            layers.setdefault(layer.reason or "no reason was recorded", []).append(units.layer(layer.layer))
    told = []
    for reason, names in sorted(layers.items(), key=lambda item: -len(item[1])):
        shown = ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
        told.append(f"{units.counted(len(names), 'layer')} left alone, {reason}: {shown}")
    return told


def _by_layer(coverages: Sequence[Coverage]) -> Markup:
    names = list(dict.fromkeys(layer.layer for coverage in coverages for layer in coverage.layers))
    by_name = [{layer.layer: layer for layer in coverage.layers} for coverage in coverages]
    whole = {name: next(layers[name] for layers in by_name if name in layers) for name in names}
    parameters = sum(layer.parameters for layer in whole.values()) or 1
    macs = sum(layer.macs for layer in whole.values()) or 1
    titles = ["Layer", *(coverage.technique for coverage in coverages), "Parameters", "MACs"]
    numbers = len(titles) - 2
    head = [el("th", {"scope": "col", "class": "number" if n >= numbers else None}, t) for n, t in enumerate(titles)]
    body = []
    for name in names:
        cells = [el("td", None, *_cell(layers.get(name))) for layers in by_name]
        shares = (whole[name].parameters / parameters, whole[name].macs / macs)
        cells += [el("td", {"class": "number"}, units.percent(share)) for share in shares]
        body.append(el("tr", None, el("th", {"scope": "row", "class": "recipe"}, units.layer(name)), *cells))
    grid = el("table", None, el("thead", None, el("tr", None, *head)), el("tbody", None, *body))
    scroll = el("div", {"class": "scroll", "role": "region", "aria-label": "Coverage by layer", "tabindex": 0}, grid)
    summary = el("summary", None, f"All {units.counted(len(names), 'layer')}, one by one")
    return el("details", {"open": len(names) < FOLDED_FROM}, summary, scroll)


def _cell(layer: LayerChange | None) -> tuple[Markup, ...]:
    if layer is None:
        return (el("span", {"class": "faint"}, "not looked at"),)
    if layer.changed:
        return (el("span", {"class": "yes"}, "changed"), el("small", None, layer.reason))
    return (el("small", None, layer.reason or "left alone"),)
