"""The sensitivities on the page: what taking a share of each layer gains and loses, in words, drawn and in a table."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paring.report.axis import Arcsinh
from paring.report.fields import Fields
from paring.report.goal import Goal
from paring.report.points import TrialRow
from paring.report.records import Answer
from paring.report.sensitivity import sensitivities
from paring.report.sensitivity_plot import GLYPH, Sheet, shortened
from paring.report.sensitivity_section import WIDTHS, sensitivity_section
from tests.test_report_page import Reader, rendered, result, rows

TAIL = 14
"""The number of the trial that parts are put in front of: StaticQuantization(calibration=entropy) on onnxruntime."""

BLOCK = "RemoveBlocks"


def part(
    layer: str, share: float, gain: float, loss: float, technique: str = "PruneChannels", **changes: Any
) -> dict[str, Any]:
    """A part whose time and bytes are less by the share `gain`, known to 1 %, and whose drop is more by `loss`."""
    tail = rows()[TAIL]
    ratio = tail["speedup"]["ratio"] / (1 - gain)
    return {
        **tail,
        "stage": "training",
        "recipe": [{"technique": technique, "settings": {"layer": layer, "share": share}}, *tail["recipe"]],
        "recipe_text": f"{technique}({layer}={share}) -> {tail['recipe_text']}",
        "drop": tail["drop"] + loss,
        "size_bytes": round(tail["size_bytes"] * (1 - gain)),
        "speedup": {"ratio": ratio, "low": 0.99 * ratio, "high": 1.01 * ratio},
        "frontier": False,
        "part": [layer, share],
        **changes,
    }


def unmeasured(layer: str, share: float) -> dict[str, Any]:
    nothing = {"speedup": None, "latency_ms": None, "drop": None, "score": None, "size_bytes": None, "rows": 0}
    return part(layer, share, 0.0, 0.0, outcome="failed", reason="no kernel for node 7", **nothing)


PARTS = [
    part("stem", 0.25, 0.03, 0.4),
    part("stem", 0.5, 0.05, 0.7),
    part("down", 0.25, 0.04, 0.002),
    part("down", 0.5, 0.10, 0.006),
    part("idle", 0.5, -0.002, 0.001),
    part("early", 0.5, 0.09, 0.03, outcome="stopped-early", rows=256),
    unmeasured("broken", 0.5),
    part("stage.0", 1.0, 0.2, 0.001, BLOCK),
    part("stage.1", 1.0, 0.21, 0.09, BLOCK),
]


def trials(parts: list[dict[str, Any]] = PARTS) -> list[dict[str, Any]]:
    tried = [*rows(), *copy.deepcopy(parts)]
    return [{**row, "number": number} for number, row in enumerate(tried)]


def section(html: str) -> str:
    found = re.search(r'(?s)<section id="sensitivity">.*?</section>', html)
    assert found is not None
    return found[0]


def shown(parts: list[dict[str, Any]] = PARTS, objective: str = "latency") -> str:
    answer = result()
    answer["budget"]["objective"] = objective
    return section(rendered(answer, trials(parts)))


def wide(html: str) -> str:
    return html[html.index("chart rows wide") : html.index("chart rows narrow")]


def dots(html: str, style: str) -> dict[str, tuple[float, float, str, float]]:
    """Where the dots of the wide chart stand, how each looks and its radius, by the layer and share that they tell."""
    place = r'(?s)translate\((-?[\d.]+) ([\d.]+)\)[^>]*aria-label="([^;]*) taken;'
    found = re.findall(place + rf'[^>]*>(?:(?!<g ).)*? d="M-([\d.]+)[^"]*" class="(mark {style}[^"]*)"', wide(html))
    return {name: (float(x), float(y), style, float(radius)) for x, y, name, radius, style in found}


def words(html: str) -> str:
    return Reader(html).text().replace("\u202f", " ")


def cells(html: str) -> dict[str, list[str]]:
    """The table by layer and share."""
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", body)]
    return {f"{row[0]}, {row[2]}": [cell.replace("\u202f", " ") for cell in row[3:]] for row in found}


def test_a_run_without_part_trials_has_no_such_section() -> None:
    assert "sensitivity" not in rendered(result(), rows())
    assert "#sensitivity" in rendered(result(), trials())


def test_gains_and_losses_are_those_beside_the_same_recipe_without_the_part() -> None:
    table = cells(shown())
    assert table["down, 50\u202f%"][:3] == ["10.0 % (7.9 to 12.2)", "0.60", "2,333"]
    assert table["stage.0, 100\u202f%"][:2] == ["20.0 % (18.1 to 21.9)", "0.10"]


def test_a_part_on_another_backend_is_not_held_against_this_one() -> None:
    elsewhere = part("down", 0.5, 0.1, 0.004, backend_text="openvino")
    assert "#sensitivity" not in rendered(result(), trials([elsewhere]))


@pytest.mark.parametrize(("objective", "saved"), [("size", "size"), ("memory", "memory"), ("throughput", "time")])
def test_what_is_saved_is_what_the_run_made_small(objective: str, saved: str) -> None:
    html = shown(objective=objective)
    assert f"{saved} saved, %" in wide(html)
    figure = cells(html)["down, 50\u202f%"][0]
    assert figure == {"size": "10.0 %", "memory": "0.0 %", "time": "10.0 % (7.9 to 12.2)"}[saved]


def test_the_words_name_what_costs_least_what_is_best_left_alone_and_what_saves_nothing() -> None:
    told = words(shown())
    assert "Each of 9 parts of the network, at 7 places, was taken away alone, untrained, in front of " in told
    assert (
        "StaticQuantization(calibration=entropy) on onnxruntime. What it saves of the time, and adds to the drop"
        in told
    )
    cheap = "stage.0 (all of it saves 20 % of the time and loses 0.10 points)"
    assert f"Cost least for what they save: {cheap}, down (50 % of it saves 10 % of the time and loses 0.60" in told
    assert "Best left alone: stem (25 % of it saves 3 % of the time and loses 40.00 points), stage.1 (all" in told
    assert "Save no time: idle." in told


def test_what_loses_no_more_than_the_budget_allows_need_not_be_left_alone() -> None:
    parts = [part(name, 0.5, 0.1, loss) for name, loss in (("a", 0.0), ("b", 0.001), ("c", 0.002), ("d", 0.009))]
    told = words(shown(parts))
    assert "a (50 % of it saves 10 % of the time and loses nothing), b (" in told
    assert "Best left alone" not in told
    assert "Best left alone: d (" in words(shown([*parts[:3], part("d", 0.5, 0.1, 0.011)]))


@pytest.mark.parametrize("layers", [1, 3])
def test_of_few_layers_none_is_said_to_be_the_cheapest(layers: int) -> None:
    told = words(shown([part(name, 0.5, 0.1, 0.5) for name in "abc"[:layers]]))
    assert "Too few layers were seen to save something" in told
    assert "Cost least" not in told
    assert "Best left alone" not in told


def test_layers_stand_in_the_order_of_the_network_below_the_technique_that_took_from_them() -> None:
    labels = re.findall(r'class="(technique|layer[^"]*)">(?:<title>[^<]*</title>)?([^<]*)<', wide(shown()))
    names = [name for _, name in labels]
    assert names == ["PruneChannels", "stem", "down", "idle", "early", "broken", BLOCK, "stage.0", "stage.1"]
    looks = {name: style for style, name in labels}
    assert looks["stage.0"] == "layer cheap"
    assert looks["stem"] == "layer dear"
    assert looks["idle"] == "layer"


def test_dots_stand_where_their_figures_say_and_are_as_large_as_their_share() -> None:
    html = shown()
    gains, losses = dots(html, "gain"), dots(html, "loss")
    assert gains["down, 25\u202f%"][0] < gains["down, 50\u202f%"][0] < gains["stage.0, 100\u202f%"][0]
    assert losses["stage.0, 100\u202f%"][0] < losses["down, 50\u202f%"][0] < losses["stem, 25\u202f%"][0]
    assert gains["down, 25\u202f%"][1] == gains["down, 50\u202f%"][1] == losses["down, 50\u202f%"][1]
    assert gains["stem, 50\u202f%"][1] < gains["down, 50\u202f%"][1] < gains["stage.0, 100\u202f%"][1]
    quarter, half, whole = (gains[f"{name}\u202f%"][3] for name in ("down, 25", "down, 50", "stage.0, 100"))
    assert (half**2, whole**2) == pytest.approx((2 * quarter**2, 4 * quarter**2), rel=0.02)
    assert re.findall(r"</svg>([^<]*taken)</li>", html) == [f"{share}\u202f% taken" for share in (25, 50, 100)]


def test_a_loss_on_fewer_rows_is_hollow_and_says_on_how_many() -> None:
    html = shown()
    assert dots(html, "loss")["early, 50\u202f%"][2] == "mark loss hollow"
    assert dots(html, "gain")["early, 50\u202f%"][2] == "mark gain"
    assert dots(html, "loss")["down, 50\u202f%"][2] == "mark loss"
    assert "drop added 3.00 points on 256 rows" in html
    assert "stopped early: on fewer rows" in html
    assert cells(html)["early, 50\u202f%"][2] == "256"
    assert "stopped early: on fewer rows" not in shown(PARTS[:4])


def test_what_was_not_measured_is_said() -> None:
    html = shown()
    assert "not measured: failed" in wide(html)
    assert "Without all figures: 1 part; the table says why." in html
    assert cells(html)["broken, 50\u202f%"][0] == "–"
    assert cells(html)["broken, 50\u202f%"][-1] == "failed: no kernel for node 7"
    assert "Without all figures" not in shown(PARTS[:4])


def test_how_closely_times_are_known_is_said_and_how_many_gains_are_sure() -> None:
    told = words(shown())
    assert (
        "Times are of quick comparisons: what is saved is known to about ±2.2 %, and 7 of 8 parts save time for sure."
        in told
    )
    assert "quick comparisons" not in shown(objective="size")


def test_losses_far_beyond_the_budget_leave_room_for_those_that_matter() -> None:
    losses = dots(shown(), "loss")
    panel = losses["stem, 50\u202f%"][0] - losses["stage.0, 100\u202f%"][0]
    assert losses["down, 50\u202f%"][0] - losses["stage.0, 100\u202f%"][0] > 0.03 * panel, "0.5 of 70 points"
    assert "Drops are drawn evenly up to about 1.00 points, and by ratio beyond." in shown()
    assert "by ratio beyond" not in shown(PARTS[2:4])


def test_the_axis_that_bends_is_even_at_first_and_by_ratio_beyond() -> None:
    axis = Arcsinh(-1.0, 100.0, 1.0)
    assert (axis.at(-1.0), axis.at(100.0)) == (0.0, 1.0)
    assert axis.at(0.2) - axis.at(0.1) == pytest.approx(axis.at(0.1) - axis.at(0.0), rel=0.03)
    assert axis.at(80.0) - axis.at(40.0) == pytest.approx(axis.at(40.0) - axis.at(20.0), rel=0.01)
    assert axis.ticks(8) == (-1, 0, 1, 2, 5, 10, 20, 50, 100)
    assert axis.ticks(3) == (0, 1, 10, 100) or axis.ticks(3) == (-1, 0, 1, 10, 100)


def test_long_names_lose_what_they_share_and_then_their_middle() -> None:
    names = [f"encoder.layers.{n}.{last}" for n in (0, 11) for last in ("query", "attention.output.dense")]
    assert shortened(names, 60) == names
    assert shortened(names, 30) == ["…0.query", "…0.attention.output.dense", "…11.query", "…11.attention.output.dense"]
    short = shortened(names, 16)
    assert short == ["…0.query", "…0.att…put.dense", "…11.query", "…11.at…put.dense"]
    assert max(map(len, short)) == 16
    assert shortened(["classifier"], 6) == ["cl…ier"]


LAYERS = st.text(max_size=50) | st.sampled_from(["a.b.c", "a.b.d", "encoder.layers.11.attention.output.dense"])
FIGURES = st.tuples(LAYERS, st.floats(0.01, 1), st.floats(-3, 0.99), st.none() | st.floats(-1, 100), st.booleans())


@example([("a", 0.5, 0.1, -1.0, True)], 1e-4, 960.0)
@settings(deadline=None, max_examples=60)
@given(
    st.lists(FIGURES, min_size=1, max_size=60),
    st.sampled_from([0.0, 1e-4, 0.01, 1.0, 50.0]),
    st.sampled_from(sorted(dict(WIDTHS).values())),
)
def test_everything_stands_inside_the_drawing_whatever_was_measured(
    figures: list[tuple[str, float, float, float | None, bool]], allowed: float, width: float
) -> None:
    parts = [part(layer, share, gain, loss or 0.0) for layer, share, gain, loss, _ in figures]
    for row, (*_, loss, timed) in zip(parts, figures, strict=True):
        row |= {} if timed else {"speedup": None}
        row |= {"drop": None} if loss is None else {}
    answer = Answer.of(result())
    tried = tuple(TrialRow.of(Fields(row)) for row in trials(parts))
    goal, unit = Goal.of(answer.budget), answer.score_unit(tried)
    (found,) = sensitivities(tried, goal)
    sheet = Sheet.of(found, unit, allowed, width)
    assert sensitivity_section(tried, goal, replace(answer.budget, max_drop=allowed), unit)
    layers = [line for line in sheet.lines if line.taken]
    assert len(layers) == len({layer for layer, *_ in figures})
    for line, taken in ((each, taken) for each in layers for taken in each.taken):
        radius = sheet.radius(taken.share)
        assert 2 * radius < sheet.row
        assert line.y + radius < sheet.bottom < sheet.height
        assert len(line.label) * GLYPH < sheet.names
        for value, place, panel in (
            (taken.gain and 100 * taken.gain.ratio, sheet.gained, sheet.gain_panel),
            (taken.loss and unit.value(taken.loss), sheet.lost, sheet.loss_panel),
        ):
            assert value is None or panel.left <= place(value) <= panel.right < width
