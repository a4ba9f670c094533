"""Quantities as people type them: 20m, 2MB."""

from __future__ import annotations

import re
from collections.abc import Mapping

from paring.errors import InputError

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def duration_s(text: str) -> float:
    """Seconds in '90', '90s', '20m' or '1.5h'."""
    return _quantity(text, SECONDS, "a time, for example 90s, 20m or 1.5h")


def size_bytes(text: str) -> int:
    """Bytes in '500000', '2MB' (10^6) or '2MiB' (2^20)."""
    return round(_quantity(text, BYTES, "a size, for example 2MB or 512KiB"))


def _quantity(text: str, units: Mapping[str, float], wanted: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None or float(match[1]) == 0:
        raise InputError(f"{text!r} is not {wanted}.")
    return float(match[1]) * factor
