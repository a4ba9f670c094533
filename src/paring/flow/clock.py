"""The time of a run, over all of its invocations."""

from __future__ import annotations

import time
from collections.abc import Sequence

from paring.errors import TimeUpError

CONCLUSION_SHARE = 0.25
LONGEST_CONCLUSION_S = 60.0
"""Time kept for measuring at length and writing, beside the looks at the certification rows."""

LOOKS = 3
"""At the certification rows when the search is over: of the original and of two finalists."""

MOST_RESERVED_SHARE = 0.6
"""Of the limit, for all that follows the search: where three looks take longer, fewer are taken."""

EARLY_LOOKS = 2
EARLY_LOOKS_SHARE = 0.5
"""Of what the search has left: early looks, of the original and of one finalist, may take no more of it."""

GRACE_SHARE = 0.5
"""Of the time for the conclusion: what a trial may take of it to come to its end."""

ENDING_SHARE = 0.25
"""Of the time for the conclusion: what no look may take of it, for the last comparison and for writing."""

ENDING_STARTS = 6
ENDING_MEASURING_S = 2.0
"""What these take at the least: two pairs of processes, their measurements, and the processes of the writing."""

WRITING_STARTS = 2
"""Processes that answer the golden rows of the result and of the original: what is optional may not take their time."""


class RunClock:
    """How much of the time limit is spent. A resumed run goes on where the earlier one ended.

    Decisions see the time as it stood when the last trial ended, and what the search was allowed when the next one was
    asked for; trials record both: so a resumed run, which replays them, decides as the first one did, even with more
    time.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._begin_s = time.monotonic()
        self._spent_before_s = 0.0
        self._decided_s = 0.0
        self._decided_limit_s: float | None = None
        self._look_s = 0.0
        self._start_s = 0.0

    def resume(self, trials_s: Sequence[float], looks_s: Sequence[float]) -> None:
        """In an earlier run so much was spent as each trial ended, and each look at the certification rows.

        What this one did again does not count, and neither does what followed the search: that is done once more.
        """
        if trials_s:
            self._spent_before_s = max(*trials_s, min(max(looks_s, default=0.0), self.search_limit_s))
            self._begin_s = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds so far."""
        return self._spent_before_s + time.monotonic() - self._begin_s

    def reserve(self, look_s: float, start_s: float = 0.0) -> None:
        """Keep time for looks at the certification rows, and for an end whose processes take so long to start."""
        self._look_s, self._start_s = look_s, start_s

    @property
    def _looks_s(self) -> float:
        return LOOKS * self._look_s

    @property
    def _usual_conclusion_s(self) -> float:
        return min(LONGEST_CONCLUSION_S, CONCLUSION_SHARE * self.limit_s)

    @property
    def _ending_s(self) -> float:
        """For the last comparison and for writing."""
        return max(ENDING_SHARE * self._usual_conclusion_s, self._least_ending_s)

    @property
    def _least_ending_s(self) -> float:
        return ENDING_MEASURING_S + ENDING_STARTS * self._start_s

    @property
    def _conclusion_s(self) -> float:
        return max(self._usual_conclusion_s, self._ending_s)

    @property
    def grace_s(self) -> float:
        """How long a trial that is under way may go on after the search has to end."""
        return min(GRACE_SHARE * self._usual_conclusion_s, self._conclusion_s - self._ending_s)

    @property
    def search_limit_s(self) -> float:
        """What the search may spend: the limit without the time for looks and for the conclusion."""
        return self.limit_s - min(self._conclusion_s + self._looks_s, MOST_RESERVED_SHARE * self.limit_s)

    @property
    def search_deadline_s(self) -> float:
        """The `time.monotonic()` at which the search has to end."""
        return self._begin_s + self.search_limit_s - self._spent_before_s

    @property
    def deadline_s(self) -> float:
        """The `time.monotonic()` at which the run has to end."""
        return self._begin_s + self.limit_s - self._spent_before_s

    @property
    def writing_deadline_s(self) -> float:
        """The `time.monotonic()` at which the writing has to begin: what the answer can do without ends there."""
        return self.deadline_s - WRITING_STARTS * self._start_s

    def left_s(self) -> float:
        """Seconds until the run has to end."""
        return self.limit_s - self.spent_s

    def trial_ended(self, elapsed_s: float, search_limit_s: float | None = None) -> None:
        """A trial ended when so much was spent; `search_limit_s` is what was allowed, where the next is replayed."""
        self._decided_s, self._decided_limit_s = elapsed_s, search_limit_s

    def search_left_s(self) -> float:
        """What the search has left to decide on."""
        limit_s = self.search_limit_s if self._decided_limit_s is None else self._decided_limit_s
        return limit_s - self._decided_s

    def early_looks_fit(self) -> bool:
        """Whether the search can spare the time for early looks."""
        return EARLY_LOOKS * self._look_s <= EARLY_LOOKS_SHARE * self.search_left_s()

    def check_look(self, what: str, takes_s: float) -> None:
        """Raise TimeUpError where `what` is left of a look takes so many seconds, and would end too late."""
        left_s = max(0.0, self.left_s() - self._ending_s)
        if takes_s > left_s:
            raise TimeUpError(
                f"the time limit has no room for its look at the certification rows ({what} would take "
                f"{takes_s:.0f} s more, and {left_s:.0f} s were left): allow more time."
            )

    def conclusion_left_s(self) -> float:
        """Seconds until the run has to end, without those that looks, the last comparison and writing will take."""
        return self.left_s() - self._looks_s - self._least_ending_s
