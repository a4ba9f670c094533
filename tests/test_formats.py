"""Number formats against a slow oracle: all levels, nearest by brute force, and the types of ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.errors import TechniqueError
from paring.ops.formats import FORMATS, Format, format_of, powers_of_two

NAMES = sorted(FORMATS)
NARROW = [name for name in NAMES if format_of(name).bits <= 8]
FLOATS = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
numbers = st.floats(width=32, allow_nan=False)


def oracle(value: float, form: Format) -> set[float]:
    """The levels nearest to a number, of which a tie has two."""
    within = min(max(value, form.levels[0]), form.levels[-1])
    distances = [abs(level - within) for level in form.levels]
    return {level for level, distance in zip(form.levels, distances, strict=True) if distance == min(distances)}


@given(st.lists(numbers, min_size=1, max_size=20), st.sampled_from(NARROW))
def test_codes_stand_for_the_nearest_level(values: list[float], name: str) -> None:
    form = format_of(name)
    codes = form.encode(np.array(values, np.float32))
    for value, level in zip(values, form.decode(codes).tolist(), strict=True):
        assert level in {float(np.float32(each)) for each in oracle(value, form)}


@given(st.data(), st.sampled_from(NAMES))
def test_a_tie_goes_to_the_even_level(data: st.DataObject, name: str) -> None:
    form = format_of(name)
    at = data.draw(st.integers(0, len(form.levels) - 2))
    middle = np.float64(form.levels[at] + form.levels[at + 1]) / 2
    zero = form.levels.index(0.0) if 0.0 in form.levels else 0
    assert (int(form.encode(np.array(middle))) - zero) % 2 == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_level_is_kept_and_what_is_out_of_reach_goes_to_the_end(name: str) -> None:
    form = format_of(name)
    codes = form.encode(form.values)
    assert codes.tolist() == list(range(len(form.levels)))
    assert len(form.levels) <= 2**form.bits
    ends = form.decode(form.encode(np.array([-np.inf, np.inf, -1e30, 1e30])))
    assert ends.tolist() == [form.values[0], form.values[-1]] * 2
    assert form.encode(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match=f"NaN has no {name}"):
        form.encode(np.array([0.0, np.nan]))


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_those_of_the_standard(name: str) -> None:
    form, kind = format_of(name), FLOATS[name]
    patterns = np.arange(2**form.bits, dtype=np.uint8).view(kind).astype(np.float32)
    assert sorted({float(value) for value in patterns if np.isfinite(value)}) == [float(v) for v in form.values]


@given(st.lists(numbers, min_size=1, max_size=50), st.sampled_from(sorted(FLOATS)))
def test_floats_round_as_those_of_the_standard(values: list[float], name: str) -> None:
    form = format_of(name)
    within = np.clip(np.array(values, np.float32), form.levels[0], form.levels[-1])
    assert np.array_equal(form.decode(form.encode(within)), within.astype(FLOATS[name]).astype(np.float32))


@given(st.lists(st.floats(-300, 300, width=32), min_size=1), st.integers(2, 8), st.booleans())
def test_integers_round_half_to_even(values: list[float], bits: int, signed: bool) -> None:
    form = format_of(f"{'' if signed else 'u'}int{bits}")
    given_values = np.array(values, np.float32)
    assert np.array_equal(
        form.decode(form.encode(given_values)), np.clip(np.rint(given_values), form.levels[0], form.levels[-1])
    )


def test_formats_of_integers_run_in_int8_whatever_their_width() -> None:
    assert {name for name, form in FORMATS.items() if not form.is_integral} == {
        *FLOATS,
        *("nf4", "int16", "uint16"),
    }
    assert format_of("apot4").levels[7:] == (0, 1, 2, 3, 4, 6, 8, 10)
    assert format_of("apot5").levels[15:] == (0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48)
    assert powers_of_two(4).levels[-4:] == (8.0, 16.0, 32.0, 64.0)


def test_an_unknown_format_is_refused_with_the_closest() -> None:
    with pytest.raises(TechniqueError, match=r"format 'int9' is unknown: choose .*int8"):
        format_of("int9")


@pytest.mark.parametrize("name", ["binary", "odd2", "odd6"])
def test_the_smallest_numbers_have_the_level_of_their_sign(name: str) -> None:
    form = format_of(name)
    for size in (1e-45, 1e-30, 1e-17):
        assert form.decode(form.encode(np.array([-size, size], np.float32))).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMATS.values(), ids=str)
def test_numbers_next_to_the_middle_of_two_levels_go_where_they_belong(form: Format, kind: type[np.floating]) -> None:
    levels = np.array(form.levels)
    middles = (levels[1:] + levels[:-1]) / 2
    near = np.concatenate([middles.astype(kind), levels.astype(kind), np.array([np.inf, -np.inf], kind)])
    near = np.concatenate([near, np.nextafter(near, kind(np.inf)), np.nextafter(near, kind(-np.inf))])
    below, above = (np.searchsorted(middles, near.astype(np.float64), side=side) for side in ("left", "right"))
    zero = form.levels.index(0.0) if 0.0 in form.levels else 0
    expected = np.where((below - zero) % 2 == 0, below, above)
    assert np.array_equal(form.encode(near), expected)
