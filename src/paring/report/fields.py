"""Typed access to parsed JSON, where a value may be null, missing or NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fields:
    """One JSON object."""

    values: Mapping[str, Any]

    def text(self, name: str, default: str = "") -> str:
        """The value as text; `default` where it is null or missing."""
        value = self.values.get(name)
        return default if value is None else str(value)

    def number(self, name: str) -> float | None:
        """A finite number, or None: also for NaN and infinity, which say no more than nothing."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)

    def integer(self, name: str) -> int | None:
        """A whole number, or None."""
        value = self.number(name)
        return None if value is None else round(value)

    def flag(self, name: str) -> bool:
        """True only where the value is true."""
        return self.values.get(name) is True

    def texts(self, name: str) -> tuple[str, ...]:
        """The texts in the list under that name; none where it is missing."""
        value = self.values.get(name)
        return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()

    def inner(self, name: str) -> Fields | None:
        """The object under that name, or None."""
        value = self.values.get(name)
        return Fields(value) if isinstance(value, Mapping) else None

    def each(self, name: str) -> tuple[Fields, ...]:
        """The objects in the list under that name; none where it is missing."""
        value = self.values.get(name)
        return tuple(Fields(item) for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()
