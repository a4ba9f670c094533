"""The chart, whatever the run gave it to draw."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paring.report.captions import FONT, labels_of
from paring.report.charts import scatter
from paring.report.dots import dots_of
from paring.report.fields import Fields
from paring.report.goal import Goal
from paring.report.html import NARROW, WIDE, page
from paring.report.labels import Box, Stroke
from paring.report.plot import Plot
from paring.report.points import TrialRow
from paring.report.records import Answer

DATA = Path(__file__).parent / "data" / "report"
NUMBERS = st.none() | st.floats(-1e3, 1e9) | st.just(float("nan")) | st.just(0.0)
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "number": st.integers(0, 9999),
            "stage": st.sampled_from(["baseline", "post-training", "training", "other"]),
            "outcome": st.sampled_from(["measured", "stopped-early", "failed", "no-change", "skipped"]),
            "recipe_text": st.text(max_size=12),
            "reason": st.text(max_size=12),
            "backend_text": st.sampled_from(["openvino", "torch", "mine(x=1)"]),
            "latency_ms": st.none() | st.fixed_dictionaries({"p50": NUMBERS}),
            "throughput_per_s": NUMBERS,
            "size_bytes": NUMBERS,
            "peak_memory_bytes": NUMBERS,
            "score": NUMBERS,
            "drop": st.none() | st.floats(-1, 100),
            "rows": st.integers(0, 10**6),
            "frontier": st.booleans(),
            "speedup": st.none() | st.fixed_dictionaries({"ratio": st.floats(0.001, 1e4)}),
        },
    ),
    max_size=12,
)
BUDGETS = st.fixed_dictionaries(
    {"objective": st.sampled_from(["latency", "throughput", "size", "memory"])},
    optional={"max_drop": st.floats(0, 1), "max_latency_ms": st.floats(1e-3, 1e4), "max_size_bytes": st.floats(1, 1e9)},
)
STATUSES = st.sampled_from(["improved", "kept-original", "infeasible"])


@settings(deadline=None, max_examples=60)
@given(STATUSES, BUDGETS, ROWS)
def test_any_run_makes_a_page_with_every_point_inside_its_frame(
    status: str, budget: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    values: dict[str, Any] = {"status": status, "budget": budget}
    if rows:
        values |= {"best": rows[0], "baseline": rows[-1], "baselines": rows[:2], "nearest": rows[:1]}
    answer, trials = Answer.of(values), tuple(TrialRow.of(Fields(row)) for row in rows)
    assert page(answer, trials).endswith("</html>\n")
    unit, goal = answer.score_unit(trials), Goal.of(answer.budget)
    dots = dots_of(answer, trials, goal, unit)
    for size in (WIDE, NARROW) if dots else ():
        plot = Plot.of(answer, dots, goal, unit, size)
        for dot in dots:
            assert plot.frame.plot.left <= plot.x(dot.value) <= plot.frame.plot.right
            assert plot.frame.top <= plot.y(dot.drop) <= plot.frame.plot.bottom


def row(number: int, p50: float, drop: float, backend: str = "openvino", frontier: bool = False) -> dict[str, Any]:
    return {
        "number": number,
        "stage": "post-training",
        "outcome": "measured",
        "recipe_text": f"Step{number}",
        "backend": {"name": backend},
        "latency_ms": {"p50": p50},
        "drop": drop,
        "score": 0.9,
        "frontier": frontier,
    }


def plotted(values: dict[str, Any], rows: list[dict[str, Any]], size: tuple[float, float]) -> Plot:
    answer, trials = Answer.of(values), tuple(TrialRow.of(Fields(each)) for each in rows)
    unit, goal = answer.score_unit(trials), Goal.of(answer.budget)
    return Plot.of(answer, dots_of(answer, trials, goal, unit), goal, unit, size)


def drawn(rows: list[dict[str, Any]], **changes: Any) -> str:
    return scatter(plotted({"status": "improved", "budget": {"max_drop": 0.01}, **changes}, rows, WIDE), "wide")


def sample() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The answer of a run and its trials."""
    lines = (DATA / "trials" / "trials.jsonl").read_text("utf-8").splitlines()
    return json.loads((DATA / "result.json").read_text("utf-8")), [json.loads(line) for line in lines]


def test_the_frontier_joins_only_what_no_other_beats() -> None:
    rows = [row(1, 1.0, 0.0, frontier=True), row(2, 0.5, 0.002, frontier=True), row(3, 0.7, 0.004, frontier=True)]
    path = re.search(r'd="(M[^"]*)" class="frontier"', drawn(rows))
    assert path is not None
    joined = set(re.findall(r"[\d.]+ [\d.]+", path[1]))
    at = {number: f"{x} {y}" for x, y, number in re.findall(r'translate\(([\d.]+) ([\d.]+)\)[^>]*"#(\d)', drawn(rows))}
    assert joined == {at["1"], at["2"]}


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_frontier_strikes_no_label_through(size: tuple[float, float]) -> None:
    plot = plotted(*sample(), size)
    corners, placed = plot.frontier(), labels_of(plot)
    assert len(corners) > 2
    assert "chosen: 0.196 ms" in [spot.label.text for spot in placed]
    for spot in placed:
        box = spot.box(FONT)
        for (x1, y1), (x2, y2) in pairwise(corners):
            line = [(x1 + at / 200 * (x2 - x1), y1 + at / 200 * (y2 - y1)) for at in range(201)]
            crossed = [1 for x, y in line if box.left < x < box.right and box.top < y < box.bottom]
            assert not crossed, spot.label.text


@pytest.mark.parametrize(
    ("ends", "meets"),
    [
        ((0, 5, 20, 5), True),
        ((14, 0, 14, 20), True),
        ((0, 0, 20, 10), True),
        ((12, 3, 16, 4), True),
        ((0, 5, 9, 5), False),
        ((0, 1, 20, 1), False),
        ((9, 0, 9, 20), False),
        ((0, 14, 12, 20), False),
        ((0, 9, 14, -5), False),
    ],
)
def test_where_a_line_crosses_a_box(ends: tuple[float, float, float, float], meets: bool) -> None:
    assert Stroke(*ends).meets(Box(10, 2, 18, 8)) is meets


def test_the_budget_is_told_where_the_worst_points_stand() -> None:
    rows = [row(1, 1.0, 0.0), row(2, 0.5, 0.002)]
    for each, per_s in zip(rows, (1000.0, 2000.0), strict=True):
        each["throughput_per_s"] = per_s
    for objective, anchor in (("latency", "end"), ("throughput", "start")):
        svg = drawn(rows, budget={"max_drop": 0.01, "objective": objective})
        assert re.findall(r'text-anchor="(\w+)" class="limit"', svg) == [anchor]


def test_originals_stand_where_the_answer_places_them() -> None:
    """Quick figures put the second one in front; at length it was slower."""
    rows = [row(1, 1.0, 0.0) | {"stage": "baseline"}, row(2, 0.9, 0.0) | {"stage": "baseline"}, row(3, 0.5, 0.0)]
    answer = {"status": "improved", "best": row(3, 0.4, 0.0), "baselines": [row(1, 0.8, 0.0), row(2, 0.88, 0.0)]}
    plot = plotted(answer, rows, WIDE)
    assert {dot.point.number: dot.value for dot in plot.dots} == {1: 0.8, 2: 0.88, 3: 0.4}


def test_one_trial_alone_has_no_frontier_line_and_still_an_axis() -> None:
    svg = drawn([row(1, 0.4, 0.0, frontier=True)])
    assert "frontier" not in re.findall(r'class="([^"]*)"', svg)
    assert svg.count('class="tick"') >= 2


def test_backends_keep_their_colour_from_run_to_run() -> None:
    both = drawn([row(1, 1.0, 0.0, "torch"), row(2, 0.5, 0.0, "openvino")])
    alone = drawn([row(2, 0.5, 0.0, "openvino")])
    styles = re.findall(r'class="mark (c\d)', both)
    assert len(set(styles)) == 2
    assert re.findall(r'class="mark (c\d)', alone)[0] in styles


def test_the_chosen_point_is_ringed_and_carries_its_certified_bound() -> None:
    best = row(2, 0.5, 0.002)
    certificate = {"drop": 0.002, "upper_bound": 0.006, "confidence": 0.95, "n": 500, "method": "exact"}
    svg = drawn([row(1, 1.0, 0.0), best], best=best, certificate=certificate)
    assert svg.count('class="ring"') == 1
    assert "chosen: 0.500 ms" in svg
    assert "certified: at most 0.60 points" in svg
    assert svg.count('class="whisker"') == 2


def test_the_chosen_point_stands_where_it_was_measured_at_length() -> None:
    svg = drawn([row(1, 1.0, 0.0), row(2, 0.5, 0.002)], best=row(2, 0.52, 0.002))
    assert "chosen: 0.520 ms" in svg
    assert "0.500 ms" not in svg


def test_other_points_stand_beside_the_chosen_one_by_speed_ups_that_were_measured_in_turn() -> None:
    """The machine was half as fast when the other one was measured, and as fast again at the end."""
    rows = [
        row(1, 4.0, 0.0) | {"speedup": {"ratio": 1.0, "low": 0.9, "high": 1.1}},
        row(2, 1.0, 0.002) | {"speedup": {"ratio": 2.0, "low": 1.9, "high": 2.1}},
    ]
    answer = Answer.of({"status": "improved", "best": row(2, 0.8, 0.002) | {"speedup": rows[1]["speedup"]}})
    trials = tuple(TrialRow.of(Fields(each)) for each in rows)
    dots = dots_of(answer, trials, Goal.of(answer.budget), answer.score_unit(trials))
    assert {dot.point.number: dot.value for dot in dots} == {1: pytest.approx(1.6), 2: pytest.approx(0.8)}


def test_the_latest_of_two_equal_trials_is_the_chosen_one() -> None:
    best = {key: value for key, value in row(0, 0.5, 0.002).items() if key != "number"}
    rows = [{**best, "stage": "post-training"}, {**best, "stage": "training"}]
    chosen = [dot for dot in re.findall(r'(?s)<g class="dot".*?</g>', drawn(rows, best=best)) if "ring" in dot]
    assert len(chosen) == 1
    assert ", training" in chosen[0]
