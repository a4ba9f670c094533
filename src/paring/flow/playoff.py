"""The playoff: recipes that quick comparisons can't tell apart are measured against each other before one is certified.

Where the search had time to spare, this is where it pays: the fastest of several lucky figures is mostly the luckiest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from paring.errors import OutputError, ParingError
from paring.measure.compare import Comparison
from paring.tune import Trial

CLOSE = 1.1
"""Contenders cost at most so many times what the first of them costs."""

MOST_CONTENDERS = 6
PLAYOFF_SHARE = 0.35
"""Of the time that is left."""

Duel = Callable[[Trial, Trial, float], Comparison]
"""(challenger, champion, time limit in seconds) -> the challenger's speed-up over the champion."""


def played_off(ranked: Sequence[Trial], cost: Callable[[Trial], float], duel: Duel, time_left_s: float) -> list[Trial]:
    """The same trials with the winner of the contenders first; `ranked` has the least cost first.

    Each contender meets the champion so far. One that can't be measured loses.
    """
    contenders = [trial for trial in ranked if cost(trial) <= CLOSE * cost(ranked[0])][:MOST_CONTENDERS]
    if len(contenders) < 2:
        return list(ranked)
    end_s = time.monotonic() + PLAYOFF_SHARE * time_left_s
    champion = contenders[0]
    for number, challenger in enumerate(contenders[1:], start=1):
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            break
        try:
            found = duel(challenger, champion, left_s / (len(contenders) - number))
        except OutputError:
            raise  # A disk that refuses is no verdict on the challenger.
        except ParingError:
            continue
        if found.ratio > 1:
            champion = challenger
    return [champion, *(trial for trial in ranked if trial is not champion)]
