"""Formats of weights by name: their blocks, their scales, and levels that are fitted to a weight."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest

from paring.errors import TechniqueError
from paring.ops.formats import FORMATS
from paring.ops.scales import Scaling, fitted
from paring.ops.weight_formats import WEIGHT_FORMATS, weight_format_of

Array = npt.NDArray[np.float32]
MX = ("mxfp8", "mxfp8e5m2", "mxfp6", "mxfp6e2m3", "mxfp4", "mxint8")


def weight(rows: int = 6, columns: int = 64) -> Array:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def test_all_formats_are_weight_formats_of_their_bits() -> None:
    assert set(FORMATS) < set(WEIGHT_FORMATS)
    assert {name: WEIGHT_FORMATS[name].bits for name in MX} == dict(zip(MX, (8, 8, 6, 6, 4, 8), strict=True))
    assert all(each.bits == int(name[6:]) for name, each in WEIGHT_FORMATS.items() if name.startswith("kmeans"))


@pytest.mark.parametrize(
    ("name", "close"), [("int9", "int8"), ("kmeans9", "kmeans8"), ("mxfp5", "mxfp"), ("NF4", "nf4"), ("", "int")]
)
def test_unknown_formats_are_told_with_the_closest(name: str, close: str) -> None:
    with pytest.raises(TechniqueError, match=re.escape(f"format={name!r} is unknown: choose ") + f".*{close}"):
        weight_format_of(name)


@pytest.mark.parametrize("name", MX)
@pytest.mark.parametrize("choice", ["min-max", "mse"])
def test_block_formats_have_powers_of_two_for_scales(name: str, choice: str) -> None:
    form = WEIGHT_FORMATS[name]
    grid = form.grid(weight(), Scaling(choice), 2)  # type: ignore[arg-type]
    assert grid.scale.shape == (6, 2)
    assert (np.frexp(grid.scale)[0] == 0.5).all()
    assert form.block == 32


@pytest.mark.parametrize("name", MX)
def test_block_formats_are_no_worse_than_the_example_of_the_standard(name: str) -> None:
    """OCP Microscaling Formats 1.0, section 6.3: the scale is the largest power of two at most max|w| / 2^emax."""
    form, values = WEIGHT_FORMATS[name], weight(50, 32)
    assert form.form is not None
    top = 2.0 ** np.floor(np.log2(form.form.levels[-1]))
    scale = 2.0 ** np.floor(np.log2(np.abs(values).max(axis=1, keepdims=True))) / top
    standard = form.form.decode(form.form.encode(values / scale)) * scale
    found = form.grid(values, Scaling()).quantized(values)
    assert np.square(found - values).sum() <= np.square(standard - values).sum() * (1 + 1e-6)


def test_levels_of_a_weight_of_its_own() -> None:
    form, values = WEIGHT_FORMATS["kmeans4"], weight(40, 64)
    grid = form.grid(values, Scaling())
    assert (grid.scale == 1).all()
    assert len(np.unique(grid.quantized(values))) == 16
    wide = np.square(grid.quantized(values) - values).mean()
    uniform = fitted(values, FORMATS["int4"], Scaling(), by_row=False)
    assert wide < np.square(uniform.quantized(values) - values).mean()
    blocks = form.grid(values * np.linspace(0.1, 9, 40, dtype=np.float32)[:, None], Scaling(), 2)
    assert blocks.scale.shape == (40, 2)
    assert blocks.format.levels[0] >= -1
    assert blocks.format.levels[-1] <= 1


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_weights_of_one_value_have_a_grid(name: str, value: float) -> None:
    values = np.full((2, 32), value, np.float32)
    found = WEIGHT_FORMATS[name].grid(values, Scaling()).quantized(values)
    assert np.isfinite(found).all()
    without_zero = 0.0 not in (WEIGHT_FORMATS[name].form or FORMATS["int4"]).levels
    if value or not without_zero:
        np.testing.assert_allclose(found, values, rtol=0.5, atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_levels_of_its_own_let_channels_of_zeros_vanish_and_cost_the_others_nothing(bits: int, blocks: int) -> None:
    values, form = weight(), WEIGHT_FORMATS[f"kmeans{bits}"]
    others = form.grid(values[1:], Scaling(), blocks).quantized(values[1:])
    values[0] = 0
    found = form.grid(values, Scaling(), blocks).quantized(values)
    assert np.abs(found[0]).max() < 1e-18
    np.testing.assert_array_equal(found[1:], others)
    zeros = np.zeros((2, 32), np.float32)
    assert not form.grid(zeros, Scaling(), blocks).quantized(zeros).any()


@pytest.mark.parametrize("name", ["int4", "uint3", "nf4", "kmeans3"])
def test_one_scale_for_a_whole_weight(name: str) -> None:
    grid = WEIGHT_FORMATS[name].grid(weight(), Scaling(), by_row=False)
    assert grid.scale.shape == (1, 1)
    assert grid.quantized(weight()).shape == weight().shape
