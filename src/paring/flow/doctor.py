"""doctor: what this machine is and what works on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from paring.backends.probe import probe
from paring.measure.hardware import hardware


def doctor() -> dict[str, Any]:
    """The hardware, and each backend with the reason why it does not work where it does not."""
    return {"hardware": hardware(), "backends": [asdict(found) for found in probe()]}
