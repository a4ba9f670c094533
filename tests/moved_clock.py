"""A clock that is moved: rows, comparisons and processes that start take a known time, for which no test waits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from paring.backends.isolated import Deployment
from paring.backends.probe import Probe
from paring.backends.process import WorkerProcess
from paring.errors import TimeUpError
from paring.measure import scores
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.types import Arrays

READERS = ("flow.clock", "flow.pace", "flow.paired", "flow.reference", "data.job", "measure.scores", "backends.process")


@dataclass
class Clock:
    """Stands in for the module `time`. A row takes `row_s` to answer, the first one `once_s` more.

    A process takes `start_s` to load its network.
    """

    now_s: float = 1000.0
    row_s: float = 0.0
    once_s: float = 0.0
    start_s: float = 0.0
    interrupt_s: float = math.inf

    def monotonic(self) -> float:
        return self.now_s

    def answer(self, rows: int) -> None:
        if self.now_s >= self.interrupt_s:
            raise KeyboardInterrupt
        self.now_s += self.row_s * rows + self.once_s
        self.once_s = 0.0

    def load(self, deadline_s: float) -> None:
        """Whoever waits for a process waits no longer than that."""
        self.now_s = max(self.now_s, min(self.now_s + self.start_s, deadline_s))

    def compare(self, time_limit_s: float, deadline_s: float) -> None:
        """Two pairs of processes, however long they take, and then as many as the time limit holds."""
        end_s = self.now_s + max(time_limit_s, 2 * self.start_s)
        self.now_s = max(self.now_s, min(end_s, deadline_s))
        if end_s > deadline_s:
            raise TimeUpError("the time limit ended in a comparison: allow more time.")


def installed(patch: pytest.MonkeyPatch) -> Clock:
    """The clock of runs from now on; comparisons at length take all the time that they are given, quick ones none."""
    clock, outputs, ask = Clock(), scores._outputs, WorkerProcess.ask
    for module in READERS:
        patch.setattr(f"paring.{module}.time", clock)
    patch.setattr("paring.flow.trials.COMPARISON_TIME_S", 0.2)
    for module in ("prepare", "plan"):
        patch.setattr(f"paring.flow.{module}.probe", lambda *_, **__: (Probe("sleepy", None, precisions=("f32",)),))

    def answers(session: Any, rows: Any, signature: Any, span: tuple[int, int], batch_size: int) -> Arrays:
        clock.answer(span[1] - span[0])
        return outputs(session, rows, signature, span, batch_size)

    def asked(self: WorkerProcess, command: dict[str, Any], limit_s: float, deadline_s: float = math.inf) -> Any:
        if command["command"] == "load":
            clock.load(deadline_s)
        return ask(self, command, limit_s, deadline_s)

    def compare(one: Deployment, other: Deployment, *_: Any, time_limit_s: float, **__: Any) -> Comparison:
        clock.compare(time_limit_s, min(one.deadline_s, other.deadline_s))
        fast, slow = (Latency(p50, p50, p50, 1000 / p50, 10) for p50 in (2.0, 12.0))
        return Comparison(6.0, 5.9, 6.1, fast, slow, 1, 1, 10)

    patch.setattr(scores, "_outputs", answers)
    patch.setattr(WorkerProcess, "ask", asked)
    patch.setattr("paring.flow.conclusion.compare", compare)
    return clock
