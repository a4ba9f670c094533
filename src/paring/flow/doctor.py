"""doctor: what this machine is and what works on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from paring.backends.base import Backend
from paring.backends.multiples import fast_multiple
from paring.backends.probe import Probe, probe
from paring.errors import ParingError
from paring.measure.hardware import hardware
from paring.registry import find


def doctor() -> dict[str, Any]:
    """The hardware, and each backend with the reason why it does not work where it does not.

    `channel_multiple`: rounding numbers of channels up to it costs no time, as was measured; None where that can't be.
    """
    backends = [{**asdict(found), "channel_multiple": _channel_multiple(found)} for found in probe()]
    return {"hardware": hardware(), "backends": backends}


def _channel_multiple(found: Probe) -> int | None:
    if not found.works:
        return None
    try:
        kind: type[Backend] = find("backend", found.name)
        return fast_multiple(kind) if kind.format == "onnx" else None
    except ParingError:  # It may be anybody's runtime, and does well without this.
        return None
