"""The precision in which a graph asks to be executed: techniques write it into the graph, backends honour or refuse it.

Running bf16 where nobody asked for it changes answers without a word; running f32 where bf16 was asked for measures
something else than the recipe says. So each backend either does what the graph asks, or refuses it.
"""

from __future__ import annotations

from typing import Literal

from paring.errors import BackendError

EXECUTION_PRECISION_KEY = "paring.execution_precision"
"""Key in an ONNX graph's metadata_props."""

ExecutionPrecision = Literal["f32", "bf16", "f16"]
PRECISIONS: tuple[ExecutionPrecision, ...] = ("f32", "bf16", "f16")


def execution_precision(value: str | None) -> ExecutionPrecision:
    """The precision that the metadata's value asks for; f32 where the graph does not say. Raises BackendError."""
    for known in PRECISIONS:
        if value in (known, None):
            return known
    raise BackendError(
        f"the graph's {EXECUTION_PRECISION_KEY}={value!r} is unknown: it must be one of {', '.join(PRECISIONS)}."
    )
