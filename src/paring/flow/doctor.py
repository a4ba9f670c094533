"""doctor: what this machine is and what works on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from paring.backends.base import Backend
from paring.backends.kernels import measured_kernels, saturating
from paring.backends.multiples import fast_multiple
from paring.backends.probe import Probe, probe
from paring.errors import InputError, ParingError
from paring.measure.hardware import hardware
from paring.registry import find

Asked = Backend | type[Backend]


def doctor(backends: Sequence[Asked] | None = None) -> dict[str, Any]:
    """The hardware, and each backend with the reason why it does not work where it does not; by default all.

    `channel_multiple`: rounding numbers of channels up to it costs no time, as was measured; None where that can't be.
    `saturates`: forms and layers in which sums of int8 products are cut off.
    """
    found = [{**asdict(each), **_measured(each, kind)} for each, kind in _probed(backends)]
    return {"hardware": hardware(), "backends": found}


def kernel_table(
    backends: Sequence[Asked] | None = None, say: Callable[[str], None] = lambda message: None
) -> dict[str, Any]:
    """The hardware, and what each backend that reads ONNX makes of layers in each form; by default of all that work.

    `say` is told what is being measured. Raises InputError where none of them can be measured.
    """
    rows, reasons = [], []
    for found, kind in _probed(backends):
        reason = found.reason if kind is None or kind.format == "onnx" else "it reads no ONNX graphs."
        if reason is not None or kind is None:
            reasons.append({"backend": found.name, "reason": reason})
            continue
        for row in measured_kernels(kind):
            rows.append({**asdict(row), "version": found.version, "native": row.is_native})
            say(f"{row.backend}: {row.layer}, {row.form}")
    if not rows:
        told = " ".join(f"{each['backend']}: {each['reason']}" for each in reasons)
        raise InputError(f"no kernels could be measured: name a backend that works here and reads ONNX. {told}")
    return {"hardware": hardware(), "kernels": rows, "not_measured": reasons}


def _probed(backends: Sequence[Asked] | None) -> Iterator[tuple[Probe, Asked | None]]:
    """What a probe found of each, and the backend itself; None where its class can't be imported."""
    found = probe() if backends is None else probe(backends)
    return zip(found, map(_named, found) if backends is None else backends, strict=True)


def _named(found: Probe) -> type[Backend] | None:
    with suppress(ParingError):
        kind: type[Backend] = find("backend", found.name)
        return kind
    return None


def _measured(found: Probe, kind: Asked | None) -> dict[str, Any]:
    """What takes a few seconds to measure of a backend that works."""
    told: dict[str, Any] = {"channel_multiple": None, "saturates": []}
    if not found.works or kind is None or kind.format != "onnx":
        return told
    try:
        told["saturates"] = [{"form": form, "layer": layer} for form, layer in saturating(kind)]
        told["channel_multiple"] = fast_multiple(kind if isinstance(kind, type) else type(kind))
    except ParingError:  # It may be anybody's runtime, and does well without this.
        pass
    return told
