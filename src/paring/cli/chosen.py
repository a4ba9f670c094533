"""Techniques and backends by the names that were typed."""

from __future__ import annotations

from typing import Any

from paring import registry
from paring.errors import InputError


def chosen(kind: registry.Kind, text: str | None) -> list[type[Any]] | None:
    """The classes of a comma-separated list; None (all) where nothing was typed."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--{kind}s is empty: name at least one of {', '.join(registry.names(kind))}.")
    return [registry.find(kind, name) for name in names]
