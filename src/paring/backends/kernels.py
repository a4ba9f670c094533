"""In which numbers layers really compute on this machine: a table for each backend, measured in a process of its own.

A row is a layer in a form (`kernel_forms`). Each is held against NumPy and then timed in turn with fp32, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

from paring.backends.base import Backend, called
from paring.backends.kernel_forms import FORMS, LAYERS, Form, Layer, form_of, said
from paring.backends.process import WorkerProcess, class_reference
from paring.errors import BackendError, ParingError, StalledError, TimeUpError
from paring.registry import find, names

ROW_LIMIT_S = 30.0
TIME_LIMIT_S = 120.0
CLEARLY_FASTER = 1.2
"""A runtime that does not tell in what it computes has a kernel for what is so many times as fast as fp32."""

DEQUANTIZED, REFUSED, WRONG, NOT_MEASURED = "dequantized", "refused", "wrong", "not measured"


@dataclass(frozen=True)
class Kernel:
    """What a backend makes of a layer in a form.

    `verdict` is what a kernel of its own computes in (`Execution`), "dequantized" where the answers are right and the
    layer runs in floats, "refused" or "wrong" for the `reason`, or "not measured". `executed` is what the runtime tells
    of each layer. `saturates` where sums of int8 products are cut off at 16 bits.
    """

    backend: str
    layer: str
    form: str
    verdict: str
    speedup: float | None = None
    reason: str = ""
    executed: tuple[str, ...] = ()
    saturates: bool = False

    @property
    def runs(self) -> bool:
        """Whether it answers rightly, whatever it computes in."""
        return self.verdict not in (REFUSED, WRONG, NOT_MEASURED)

    @property
    def is_native(self) -> bool:
        """Whether a kernel is made for it: the numbers are not turned into floats beforehand."""
        return self.runs and self.verdict not in ("float", DEQUANTIZED)


def measured_kernels(
    backend: Backend | type[Backend],
    forms: Sequence[str] = tuple(FORMS),
    layers: Sequence[str] = tuple(LAYERS),
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> Iterator[Kernel]:
    """The rows one by one as they are measured. A runtime that dies of one is started again for the next."""
    deadline_s = time.monotonic() + time_limit_s
    with _Measuring(backend, deadline_s) as measuring:
        for layer in (LAYERS[name] for name in layers):
            for form in (form_of(name) for name in forms):
                if said(form, layer):
                    yield measuring.row(form, layer)


@cache
def kernels(backend: Backend | type[Backend], forms: tuple[str, ...] = tuple(FORMS)) -> tuple[Kernel, ...]:
    """The table, or some of its forms: measured once in a process, a row in about a tenth of a second."""
    return tuple(measured_kernels(backend, forms))


def runs_natively(backend: Backend | type[Backend], form: str, layer: str) -> bool:
    """Whether a kernel there is made for such layers, as those of integers are for `int8`."""
    return any(row.is_native for row in kernels(backend, (form,)) if row.layer == layer)


def flaw(backend: Backend | type[Backend], form: str) -> str:
    """Why no layer in that form can be run there, in a sentence that names who can; empty where one can."""
    rows = kernels(backend, (form,))
    if any(row.verdict not in (REFUSED, WRONG) for row in rows):
        return ""
    others = [kind.name for kind in _named() if any(row.runs for row in kernels(kind, (form,)))]
    who = (
        f"use {' or '.join(others)}"
        if others
        else "no other backend does, and `paring doctor --kernels` tells what they run"
    )
    return f"{backend.name} does not run {form} on this machine ({rows[0].reason.rstrip('.')}): {who}."


def best_percent(backend: Backend | type[Backend], form: str) -> int:
    """The speed in that form, in percent of fp32's, of the layer that gains most there; 100 where none was timed."""
    timed = [row.speedup for row in kernels(backend, (form,)) if row.speedup is not None]
    return round(100 * max(timed, default=1.0))


@cache
def saturating(backend: Backend | type[Backend]) -> tuple[tuple[str, str], ...]:
    """Forms and layers in which sums of int8 products are cut off, seen by the largest that there are.

    Instructions before VNNI multiply uint8 by int8 and add two products in 16 bits: weights of 7 bits are exact, and
    signed inputs, which have to be shifted first, are no better. Raises BackendError where the runtime fails.
    """
    worker = WorkerProcess(called(backend))
    try:
        found = worker.ask({"command": "saturating", **_told(backend)}, ROW_LIMIT_S)
    finally:
        worker.close()
    return tuple((form, layer) for form, layer in found["saturating"])


class _Measuring:
    """A worker that is asked for one row at a time."""

    def __init__(self, backend: Backend | type[Backend], deadline_s: float) -> None:
        self._backend, self._deadline_s = backend, deadline_s
        self._worker: WorkerProcess | None = None

    def row(self, form: Form, layer: Layer) -> Kernel:
        """One row; none but the reason where the time is up."""
        name = called(self._backend)
        row = partial(Kernel, name, layer.name, form.name)
        if self._worker is None or not self._worker.alive:
            self._close()
            self._worker = WorkerProcess(name)
        command = {"command": "kernel", **_told(self._backend), "form": form.name, "layer": layer.name}
        try:
            found = self._worker.ask(command, ROW_LIMIT_S, self._deadline_s)
        except (TimeUpError, StalledError) as error:
            return row(NOT_MEASURED, reason=str(error))
        except BackendError as error:
            return row(REFUSED, reason=str(error))
        if found["refused"] or found["wrong"]:
            return row(REFUSED if found["refused"] else WRONG, reason=found["refused"] or found["wrong"])
        verdict = _verdict(form, found["executed"], found["speedup"])
        return row(verdict, found["speedup"], "", tuple(found["executed"]), found["saturates"])

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _verdict(form: Form, executed: Sequence[str], speedup: float) -> str:
    """By what the runtime tells of its layers; where it tells nothing, by the time that they take."""
    if executed:
        return executed[0] if "float" not in executed or form.native == "float" else DEQUANTIZED
    return form.native if form.native == "float" or speedup >= CLEARLY_FASTER else DEQUANTIZED


def _named() -> Iterator[type[Backend]]:
    """All backends with a name that read ONNX."""
    for name in names("backend"):
        with suppress(ParingError):  # A package that is broken is no alternative.
            kind: type[Backend] = find("backend", name)
            if kind.format == "onnx":
                yield kind


def _told(backend: Backend | type[Backend]) -> dict[str, Any]:
    """How a worker makes the backend."""
    return {
        "class": class_reference(backend),
        "options": backend.options() if isinstance(backend, Backend) else {},
    }
