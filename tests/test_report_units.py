"""Numbers for people: right, short, and never better than they are."""

from __future__ import annotations

import math
import re
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.report import units
from paring.report.axis import Axis
from paring.report.labels import BOLD, Box, Label, Placed, place
from paring.report.units import ScoreUnit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0123, "12.3 µs"),
        (0.0999, "99.9 µs"),
        (0.1, "0.100 ms"),
        (0.2513, "0.251 ms"),
        (0.9996, "1.00 ms"),
        (57.51, "57.5 ms"),
        (999.4, "999 ms"),
        (1234.5, "1.23 s"),
    ],
)
def test_latency(value: float | None, text: str) -> None:
    assert units.latency(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (276_300, "276 kB"),
        (999_600, "1.00 MB"),
        (1_096_211, "1.10 MB"),
        (2_500_000_000, "2.50 GB"),
    ],
)
def test_size(value: int | None, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0.40 s"), (8.44, "8.4 s"), (252, "4 min 12 s"), (3725, "1 h 02 min")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(("share", "text"), [(0, "0"), (1, "100"), (0.95, "95"), (0.975, "97.5"), (0.9999, "99.9")])
def test_only_all_is_100_percent(share: float, text: str) -> None:
    assert units.percent(share) == f"{text}\u202f%"


def test_throughput_and_counts() -> None:
    assert units.throughput(7260.4) == "7,260 /s"
    assert units.throughput(458.72) == "459 /s"
    assert units.counted(1, "trial") == "1 trial"
    assert units.counted(7000, "row") == "7,000 rows"


def test_a_gain_is_a_negative_drop_and_nothing_is_never_minus_nothing() -> None:
    assert ScoreUnit().drop(-0.0012) == "−0.12 points"
    assert ScoreUnit().drop(-0.00001) == "0.00 points"
    assert ScoreUnit(fraction=False).drop(1.5) == "1.50"


@given(st.floats(0.0, 1.0))
def test_a_bound_is_never_shown_below_itself(bound: float) -> None:
    shown = float(ScoreUnit().bound(bound).removesuffix(" points"))
    assert bound * 100 - 1e-9 <= shown < bound * 100 + 0.01 + 1e-9


@given(st.floats(1e-4, 1e4))
def test_a_bound_in_the_metrics_own_unit_is_rounded_up_too(bound: float) -> None:
    shown = float(ScoreUnit(fraction=False).bound(bound).replace(",", ""))
    assert bound * (1 - 1e-6) <= shown <= bound * 1.0101


@given(st.floats(0.01, 500.0), st.floats(1.0, 3.0))
def test_an_interval_is_never_shown_narrower_than_it_is(low: float, factor: float) -> None:
    ends = [float(end) for end in units.interval(low, low * factor).split("–")]
    assert ends[0] <= low + 1e-8
    assert low * factor - 1e-8 <= ends[1]
    assert ends[1] - ends[0] <= low * factor - low + 0.2 + 1e-6


@given(st.floats(1e-6, 1e9))
def test_three_digits_are_within_half_a_percent(value: float) -> None:
    text = units.significant(value)
    assert re.fullmatch(r"[\d,.]+", text)
    assert math.isclose(float(text.replace(",", "")), value, rel_tol=5.1e-3)


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_every_value_in_order_with_ticks_on_it(values: list[float], ratio: bool) -> None:
    axis = Axis.over(values, ratio=ratio)
    at = [axis.at(value) for value in sorted(values)]
    assert at == sorted(at)
    assert at[0] >= 0
    assert at[-1] <= 1
    ticks = axis.ticks()
    assert len(ticks) <= 8
    assert all(-1e-9 <= axis.at(tick) <= 1 + 1e-9 for tick in ticks)


FRAME = Box(0, 0, 400, 300)
SPOTS = st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), max_size=25)


@given(SPOTS)
def test_labels_never_cover_each_other_or_a_point_and_stay_inside(spots: list[tuple[float, float]]) -> None:
    points = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    placed = place([Label("original, openvino", x, y) for x, y in spots], points, FRAME, 13)
    boxes = [spot.box(13) for spot in placed]
    assert all(box.within(FRAME) for box in boxes)
    assert not any(box.meets(point) for box in boxes for point in points)
    assert not any(box.meets(other) for index, box in enumerate(boxes) for other in boxes[:index])


def test_a_needed_label_is_placed_even_in_a_crowd() -> None:
    crowd = [Box(x, y, x + 12, y + 12) for x in range(0, 400, 10) for y in range(0, 300, 10)]
    assert place([Label("free", 200, 150)], crowd, FRAME, 13) == ()
    assert len(place([Label("chosen", 200, 150, "needed")], crowd, FRAME, 13)) == 1


def test_bold_labels_take_more_room() -> None:
    plain, bold = (Placed(Label("chosen", 0, 0, kind=kind), 0, 0, "start").box(13) for kind in ("label", BOLD))
    assert bold.right > 1.1 * plain.right
    assert f".chart .{BOLD} {{ font-weight: 700;" in files("paring.report").joinpath("page.css").read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.994, "0.99×"), (1.899, "1.90×"), (9.996, "10.00×"), (42.04, "42.0×"), (314.6, "315×"), (10_134.0, "10,100×")],
)
def test_a_factor_is_a_plain_number_however_large(value: float, text: str) -> None:
    assert units.ratio(value) == text
