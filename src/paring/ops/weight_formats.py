"""The formats that weights alone are stored in, by name: those of `FORMATS`, block formats, and levels by k-means.

Block formats are those of the OCP Microscaling Formats (MX) 1.0, table 1: so many elements in a row share a scale that
is a power of two. Which one, the standard leaves open (section 6.3 has an example).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.errors import TechniqueError
from paring.ops.formats import FORMATS, Format
from paring.ops.grid import Grid
from paring.ops.kmeans import levels_of
from paring.ops.quantization import SMALLEST_SCALE
from paring.ops.scales import Scaling, fitted

Array = npt.NDArray[Any]

MX_BLOCK = 32
_VANISHING = 2.0**-64
"""Far below what float32 holds beside the other weights; what is smaller still would be slow to compute with."""


@dataclass(frozen=True)
class WeightFormat:
    """`form` has the levels; None where they are fitted to each weight. `block` is how many entries share a scale.

    A `block` of None leaves that open.
    """

    name: str
    bits: int
    form: Format | None
    block: int | None = None

    def grid(self, weight: Array, scaling: Scaling, blocks: int = 1, *, by_row: bool = True) -> Grid:
        """What the entries of a weight (rows, columns) may be, with scales for `blocks` equal parts of each row.

        Without `by_row` the rows share them. Block formats have powers of two for scales. Levels by k-means (Han et al.
        2016, Deep Compression, section 3) are those of the weight itself where its rows have one block, else those of
        what is left when each block is divided by its largest magnitude. No level need be 0: blocks of zeros have a
        scale that lets all of them vanish.
        """
        if self.form is not None:
            scaling = replace(scaling, power_of_two=True) if self.block else scaling
            return fitted(weight, self.form, scaling, blocks, by_row=by_row)
        parts = weight.reshape(len(weight), blocks, weight.shape[1] // blocks)
        reach = np.abs(parts).max(axis=-1, initial=0.0)
        used = reach >= SMALLEST_SCALE
        nothing = max(float(reach.max(initial=0.0)) * _VANISHING, SMALLEST_SCALE)
        scale = np.where(used, reach if blocks > 1 else 1.0, nothing).astype(np.float32)
        levels = levels_of((parts / scale[..., None])[used], 2**self.bits) if used.any() else np.zeros(1)
        shared = np.ones((1, 1), np.float32) if blocks == 1 and used.all() else scale
        return Grid(Format(self.name, self.bits, _at_least_two(levels)), shared)


def _at_least_two(levels: Array) -> tuple[float, ...]:
    """A format has two levels or more; a weight may have but one value."""
    found = tuple(map(float, levels))
    return found if len(found) > 1 else tuple(sorted((*found, 0.0 if found[0] else 1.0)))


WEIGHT_FORMATS: Mapping[str, WeightFormat] = MappingProxyType(
    {
        **{name: WeightFormat(name, form.bits, form) for name, form in FORMATS.items()},
        **{
            name: WeightFormat(name, FORMATS[element].bits, FORMATS[element], MX_BLOCK)
            for name, element in {
                "mxfp8": "e4m3",
                "mxfp8e5m2": "e5m2",
                "mxfp6": "e3m2",
                "mxfp6e2m3": "e2m3",
                "mxfp4": "e2m1",
                "mxint8": "int8",
            }.items()
        },
        **{f"kmeans{bits}": WeightFormat(f"kmeans{bits}", bits, None) for bits in range(2, 9)},
    }
)
"""By name: all of `FORMATS`, kmeans2 to kmeans8, mxfp8 (e4m3), mxfp8e5m2, mxfp6 (e3m2), mxfp6e2m3, mxfp4 and mxint8."""


def weight_format_of(name: str) -> WeightFormat:
    """The format of that name. TechniqueError names the closest known ones."""
    if name not in WEIGHT_FORMATS:
        close = ", ".join(difflib.get_close_matches(name, WEIGHT_FORMATS, n=3, cutoff=0.0))
        raise TechniqueError(f"format={name!r} is unknown: choose {close}.")
    return WEIGHT_FORMATS[name]


def integral_format_of(name: str, setting: str = "weights") -> Format:
    """The format of that name, whose levels 8-bit integers hold. TechniqueError where they don't, or there is none."""
    if name in FORMATS and FORMATS[name].is_integral:
        return FORMATS[name]
    if name in WEIGHT_FORMATS:
        raise TechniqueError(f"{setting}={name!r} does not fit 8-bit integers: use WeightQuantization({name!r}).")
    fitting = [each for each, form in FORMATS.items() if form.is_integral]
    close = ", ".join(difflib.get_close_matches(name, fitting, n=3, cutoff=0.0))
    raise TechniqueError(f"{setting}={name!r} is unknown: choose {close}.")
