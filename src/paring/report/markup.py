"""HTML and SVG that is escaped by construction: text becomes markup only through `el`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

Attributes = Mapping[str, str | float | bool | None]

VOID = frozenset({"br", "col", "hr", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already; any other string is escaped when it enters an element."""

    __slots__ = ()


def el(name: str, attributes: Attributes | None = None, *children: str) -> Markup:
    """One element. An attribute that is None or False is left out, one that is True stands without a value."""
    told = "".join(_attribute(key, value) for key, value in (attributes or {}).items())
    if name in VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{joined(children)}</{name}>")


def joined(children: Iterable[str]) -> Markup:
    """The children one after the other, plain text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {key}="{escape(text)}"'
