"""plan: what would be tried, what can't be and why; nothing is run."""

from __future__ import annotations

from typing import Any

from paring.flow.request import Request


def make_plan(request: Request) -> dict[str, Any]:
    """Not yet."""
    raise NotImplementedError
