"""One line of progress every few seconds."""

from __future__ import annotations

import math

from paring.data.job import Say

EVERY_S = 5.0


class Progress:
    """Says how far the training is: share, epoch, loss since the last line, rows a second, time left."""

    def __init__(self, say: Say, epochs: int, now_s: float) -> None:
        self._say, self._epochs = say, epochs
        self._since_s = now_s
        self._rows = self._steps = 0
        self._loss = 0.0

    def count(self, rows: int, loss: float) -> None:
        """One step is done."""
        self._rows += rows
        self._steps += 1
        self._loss += loss

    def tell(self, share: float, epoch: int, time_left_s: float, now_s: float) -> None:
        """Say it, if the last line is a while ago."""
        elapsed_s = now_s - self._since_s
        if elapsed_s < EVERY_S or not self._steps:
            return
        left = f", {duration(time_left_s)} left" if math.isfinite(time_left_s) else ""
        self._say(
            f"training {share:.0%} (epoch {epoch + 1}/{self._epochs}), loss {self._loss / self._steps:.4f}, "
            f"{self._rows / elapsed_s:,.0f} rows/s{left}"
        )
        self._since_s, self._rows, self._steps, self._loss = now_s, 0, 0, 0.0


def duration(seconds: float) -> str:
    """Seconds as people say them: '45 s', '12 min 5 s'."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
