"""Quick comparisons of many candidates with one original, whose processes go on running."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Self

from paring.backends.isolated import Deployment, IsolatedSession
from paring.errors import BackendError
from paring.measure.compare import ALWAYS_PAIRS, Comparison
from paring.measure.latency import Workload
from paring.measure.pairs import Pair, measured_pair
from paring.measure.standby import Standby

MOST_QUICK_PAIRS = 4
"""However much they disagree: the search goes on."""

AGREEMENT = 0.1
"""Log ratios of two pairs that lie further apart are no accident of noise: one of the four processes was unlucky."""

OUT_OF_REACH = 2.5
"""A candidate so many times slower than the fastest so far is not the fastest, whatever its process was up against."""


class Yardstick:
    """The original, kept running in two processes, so that a search compares many candidates with it in a second each.

    The threads of a process may share one core for as long as it lives, while the other core idles: twice the time, on
    either side, and nothing in that process tells. So a candidate that might turn out the fastest is measured in two
    processes, each beside another process of the original, and in up to two more where these disagree or the blocks of
    calls do, as on a machine that has other work to do; the median counts.
    """

    def __init__(self, original: Deployment, workload: Workload, *, seed: int = 0) -> None:
        self._workload = workload
        self._order = random.Random(seed)
        self._fastest = 0.0
        self._originals = [Standby(original, workload.threads) for _ in range(2)]

    def compare(self, candidate: Deployment, *, time_limit_s: float = 1.0) -> Comparison:
        """Measure a candidate in turn with the original for about `time_limit_s` after it has loaded."""
        with IsolatedSession.of(candidate, threads=self._workload.threads) as session:
            return self.compare_loaded(session, candidate, time_limit_s=time_limit_s)

    def compare_loaded(
        self, session: IsolatedSession, candidate: Deployment, *, time_limit_s: float = 1.0
    ) -> Comparison:
        """The same where the first of the candidate's processes runs already; it goes on."""
        pairs = [self._pair(session, 0, time_limit_s / 4)]
        if pairs[0].log_ratio > self._fastest - math.log(OUT_OF_REACH):
            while len(pairs) < ALWAYS_PAIRS or (len(pairs) < MOST_QUICK_PAIRS and _unsure(pairs)):
                pairs.append(self._another_pair(candidate, len(pairs) % 2, time_limit_s / 4))
        result = Comparison.of(pairs, self._workload, 0)
        self._fastest = max(self._fastest, math.log(result.ratio))
        return result

    def _another_pair(self, candidate: Deployment, original: int, time_s: float) -> Pair:
        with IsolatedSession.of(candidate, threads=self._workload.threads) as session:
            return self._pair(session, original, time_s)

    def _pair(self, session: IsolatedSession, original: int, time_s: float) -> Pair:
        """A pair beside a process of the original, beside a new one where that died: no fault of the candidate."""
        standby = self._originals[original]
        try:
            return measured_pair(session, standby.session(), self._workload, time_s, self._order)
        except BackendError:
            if standby.alive or not session.alive:
                raise
        return measured_pair(session, standby.session(), self._workload, time_s, self._order)

    def close(self) -> None:
        """End the original's processes."""
        for standby in self._originals:
            standby.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unsure(pairs: Sequence[Pair]) -> bool:
    """Whether the last two disagree, or their blocks do among each other by twice as much."""
    last = pairs[-ALWAYS_PAIRS:]
    whole, blocks = [pair.log_ratio for pair in last], [ratio for pair in last for ratio in pair.block_log_ratios]
    return max(whole) - min(whole) > AGREEMENT or max(blocks) - min(blocks) > 2 * AGREEMENT
