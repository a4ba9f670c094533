"""Which backends work on this machine. Each is tried in a process of its own, where it may even abort."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from paring.backends.base import Backend
from paring.backends.process import WorkerProcess, class_reference
from paring.errors import ParingError
from paring.registry import names, reference

PROBE_LIMIT_S = 120.0


@dataclass(frozen=True)
class Probe:
    """What a probe found: `reason` is None where the backend ran a small network and answered as NumPy does.

    `precisions` are those in which it executes graphs that ask for them, `refused` the options that can't work on this
    machine, with the reason.
    """

    name: str
    reason: str | None
    version: str = ""
    details: dict[str, str] = field(default_factory=dict)
    precisions: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether networks can be run in it."""
        return self.reason is None


def probe(
    backends: Sequence[str | Backend | type[Backend]] | None = None, *, time_limit_s: float = PROBE_LIMIT_S
) -> tuple[Probe, ...]:
    """Probe backends, side by side, in the order given; by default all that have a name.

    An object is tried with its own options, a name or a class with the default ones.
    """
    wanted = names("backend") if backends is None else backends
    if not wanted:
        return ()
    with ThreadPoolExecutor(len(wanted)) as pool:
        return tuple(pool.map(lambda backend: _probe_one(backend, time_limit_s), wanted))


def _probe_one(backend: str | Backend | type[Backend], time_limit_s: float) -> Probe:
    name = backend if isinstance(backend, str) else backend.name
    options = backend.options() if isinstance(backend, Backend) else {}
    try:
        found = reference("backend", backend).to_json() if isinstance(backend, str) else class_reference(backend)
        worker = WorkerProcess(name)
        try:
            answer: dict[str, Any] = worker.ask({"command": "probe", "class": found, "options": options}, time_limit_s)
        finally:
            worker.close()
    except ParingError as error:
        return Probe(name, str(error))
    precisions = tuple(answer["precisions"])
    return Probe(name, answer["reason"], answer["version"], answer["details"], precisions, answer["refused"])
