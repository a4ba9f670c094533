"""The worker's side of a probe: is the runtime there, and does it answer as NumPy does?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from paring.backends.base import Backend
from paring.backends.checks import in_one_sentence
from paring.backends.cores import usable_cores
from paring.backends.probe_network import TOLERANCE, expected_outputs, probe_inputs, write_probe_network
from paring.types import Budget

ROWS = 3


def probed(kind: type[Backend], options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The answer to the command probe: reason, version, details, precisions, refused."""
    reason = kind.available()
    if reason is not None:
        return _answer(kind, reason)
    try:
        reason, details = _trial_run(kind.with_options(options), folder)
        return _answer(kind, reason, details, kind.precisions()) | {"refused": _refused(kind)}
    except Exception as error:
        return _answer(kind, f"it fails on a small network: {in_one_sentence(error)}.")


def _answer(
    kind: type[Backend], reason: str | None, details: Mapping[str, str] | None = None, precisions: Sequence[str] = ()
) -> dict[str, Any]:
    return {
        "reason": reason,
        "version": _version(kind),
        "details": details or {},
        "precisions": list(precisions),
        "refused": {},
    }


def _refused(kind: type[Backend]) -> dict[str, str]:
    """Options that can't work on this machine, with the reason."""
    try:
        variants = tuple(kind.variants(Budget(), usable_cores()))
        return {str(variant): reason for variant in variants if (reason := variant.refusal()) is not None}
    except Exception as error:  # It may be anybody's code, and the backend works nevertheless.
        return {f"options of {kind.name}": f"they can't be told: {in_one_sentence(error)}."}


def _trial_run(backend: Backend, folder: Path) -> tuple[str | None, dict[str, str]]:
    """Why its answers are wrong, or None; and how it went."""
    network = write_probe_network(backend.format, folder)
    inputs = probe_inputs(ROWS)
    begin = time.perf_counter()
    session = backend.load(network, threads=1)
    load_s = time.perf_counter() - begin
    outputs = session.run(inputs)
    session.close()
    expected = expected_outputs(inputs)
    if set(outputs) != set(expected):
        return f"it names the outputs {', '.join(outputs)} and not {', '.join(expected)}.", {}
    error = max(float(np.abs(outputs[name] - value).max()) for name, value in expected.items())
    details = {"format": backend.format, "load_s": f"{load_s:.2f}", "largest_error": f"{error:.1e}"}
    return (None if error <= TOLERANCE else f"its answers are off by {error:.2g} on a small network."), details


def _version(kind: type[Backend]) -> str:
    if kind.package is None:
        return ""
    try:
        return version(kind.package)
    except PackageNotFoundError:
        return ""
