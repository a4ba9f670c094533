"""Estimates with an interval, and what comes of them."""

from __future__ import annotations

import math


def quotient(one: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    """One positive estimate with the ends of its interval over another, as (estimate, low, high).

    Their errors are taken as independent and of either sign as large as the ends tell, on the scale of logarithms: the
    relative errors add up in squares.
    """
    ratio = one[0] / other[0]
    down = math.hypot(math.log(one[0] / one[1]), math.log(other[2] / other[0]))
    up = math.hypot(math.log(one[2] / one[0]), math.log(other[0] / other[1]))
    return ratio, ratio * math.exp(-down), ratio * math.exp(up)
