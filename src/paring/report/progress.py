"""What a run tells while it runs, on stderr: stage, trials done, best so far, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

SAY_EVERY_S = 30.0
"""Where nothing can be replaced on the screen, what is being done now is told no more often."""


class Progress(Protocol):
    """Where a run reports to."""

    def stage(self, name: str) -> None:
        """A stage begins."""
        ...

    def say(self, message: str) -> None:
        """What is being done now; the next message replaces it."""
        ...

    def note(self, message: str) -> None:
        """Something worth keeping on the screen."""
        ...

    def trial(self, number: int, best: str) -> None:
        """A trial ended; `best` is the best so far, in words."""
        ...


class Silent:
    """Tells nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""

    def trial(self, number: int, best: str) -> None:
        """Nothing."""


class TerminalProgress:
    """One line that is kept up to date on a terminal; where stderr is none, a line for each note and now and then one.

    `time_left_s` is asked again and again: a resumed run has less than its limit.
    """

    def __init__(self, time_left_s: Callable[[], float]) -> None:
        self._time_left_s = time_left_s
        self._said_s = time.monotonic()
        self._console = Console(file=sys.stderr, highlight=False)
        self._stage = "starting"
        self._doing = ""
        self._trials = 0
        self._best = ""
        self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stage = name
        self.note(f"{name}: {self._left()} left")

    def say(self, message: str) -> None:
        """What is being done now."""
        self._doing = message
        if not self._console.is_terminal and time.monotonic() >= self._said_s + SAY_EVERY_S:
            self._said_s = time.monotonic()
            self.note(f"  {self._left()} left: {message}")

    def note(self, message: str) -> None:
        """Keep a line on the screen."""
        self._console.print(Text(message), soft_wrap=True)

    def trial(self, number: int, best: str) -> None:
        """A trial ended."""
        self._trials = number
        if best != self._best:
            self._best = best
            self.note(f"  best so far, after {number} trials: {best}")

    def _left(self) -> str:
        seconds = max(0, round(self._time_left_s()))
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _line(self) -> Text:
        best = f" · best {self._best}" if self._best else ""
        text = f"{self._stage} · {self._trials} trials{best} · {self._left()} left · {self._doing}"
        return Text(text, overflow="ellipsis", no_wrap=True, style="dim")
