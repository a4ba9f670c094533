"""The frame of a page: one file that needs no network, no font and no script from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from paring.report.markup import Markup, el


@dataclass(frozen=True)
class Section:
    """A part of the page; `short` is its name in the contents."""

    anchor: str
    short: str
    title: str
    body: Markup


def document(title: str, opening: Callable[[Markup], Markup], sections: Sequence[Section]) -> str:
    """The whole document; `opening` makes the header around the contents."""
    links = [el("a", {"href": f"#{section.anchor}"}, section.short) for section in sections]
    parts = [el("section", {"id": section.anchor}, el("h2", None, section.title), section.body) for section in sections]
    opened = opening(el("nav", {"aria-label": "Contents"}, *links))
    tooltip = el("div", {"id": "tip", "role": "status", "hidden": True})
    body = el("body", None, el("main", None, opened, *parts), tooltip, el("script", None, Markup(_asset("page.js"))))
    return f"<!doctype html>\n{el('html', {'lang': 'en'}, _head(title), body)}\n"


def _head(title: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(_asset("page.js").encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return el(
        "head",
        None,
        el("meta", {"charset": "utf-8"}),
        el("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", {"name": "color-scheme", "content": "light dark"}),
        el("title", None, title),
        el("style", None, Markup(_asset("page.css"))),
    )


def _asset(name: str) -> str:
    return files("paring.report").joinpath(name).read_text("utf-8")
