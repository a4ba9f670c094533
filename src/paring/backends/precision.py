"""The precision in which a graph asks to be executed: techniques write it into the graph, backends honour or refuse it.

Running bf16 where nobody asked for it changes answers without a word; running f32 where bf16 was asked for measures
something else than the recipe says. So each backend either does what the graph asks, or refuses it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from paring.errors import BackendError

EXECUTION_PRECISION_KEY = "paring.execution_precision"
"""Key in an ONNX graph's metadata_props."""

ExecutionPrecision = Literal["f32", "bf16", "f16"]
PRECISIONS: tuple[ExecutionPrecision, ...] = ("f32", "bf16", "f16")
_DTYPES: dict[ExecutionPrecision, str] = {"bf16": "bf16", "f16": "fp16"}
"""Those of 16 bits, as the technique that asks for them calls them."""


def execution_precision(value: str | None) -> ExecutionPrecision:
    """The precision that the metadata's value asks for; f32 where the graph does not say. Raises BackendError."""
    for known in PRECISIONS:
        if value in (known, None):
            return known
    raise BackendError(
        f"the graph's {EXECUTION_PRECISION_KEY}={value!r} is unknown: it must be one of {', '.join(PRECISIONS)}."
    )


def alternative(asked: ExecutionPrecision, here: Collection[str]) -> str:
    """What to choose where a runtime lacks a precision, by those that OpenVINO has on this machine."""
    if asked in here:
        return "use openvino"
    if halves := [f"HalfPrecision(dtype={dtype!r})" for precision, dtype in _DTYPES.items() if precision in here]:
        return f"choose {halves[0]}, which openvino executes here"
    return "choose StaticQuantization for integers of 8 bits, or HalfPrecision(storage_only=True)"
