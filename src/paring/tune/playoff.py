"""The playoff: recipes that quick comparisons can't tell apart are measured against each other before one is certified.

Where the search had time to spare, this is where it pays: the fastest of several lucky figures is mostly the luckiest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paring.errors import OutputError, ParingError, TimeUpError
from paring.measure.compare import Comparison
from paring.tune.trial import Trial

CLOSE = 1.1
"""Contenders cost at most so many times what the first of them costs."""

MOST_CONTENDERS = 6
PLAYOFF_SHARE = 0.35
"""Of the time that is left."""

Duel = Callable[[Trial, Trial, float], Comparison]
"""(challenger, champion, time limit in seconds) -> the challenger's speed-up over the champion."""


def played_off(
    ranked: Sequence[Trial],
    cost: Callable[[Trial], float],
    duel: Duel,
    time_left_s: Callable[[], float],
    looked_at: Sequence[str] = (),
) -> list[Trial]:
    """The same trials with the winner of the contenders first; `ranked` has the least cost first.

    Each contender meets the champion so far. The first one of `looked_at` was the winner when the run came this far
    before: it stays the winner, since another look would be paid for with confidence.
    """
    contenders = [trial for trial in ranked if cost(trial) <= CLOSE * cost(ranked[0])][:MOST_CONTENDERS]
    if len(contenders) < 2:
        return list(ranked)
    champion = next((trial for key in looked_at for trial in contenders if trial.key == key), None)
    champion = champion or last_standing(contenders, duel, time_left_s)
    return [champion, *(trial for trial in ranked if trial is not champion)]


def last_standing(contenders: Sequence[Trial], duel: Duel, time_left_s: Callable[[], float]) -> Trial:
    """Who is left when each has met the champion so far; the first of them where there is no time.

    Where two duels fail in a row, it is the champion that can't be measured.
    """
    until_s = (1 - PLAYOFF_SHARE) * time_left_s()
    champion, failed = contenders[0], False
    for number, challenger in enumerate(contenders[1:], start=1):
        left_s = time_left_s() - until_s
        if left_s <= 0:
            break
        try:
            faster = duel(challenger, champion, left_s / (len(contenders) - number)).ratio > 1
        except OutputError:
            raise  # A disk that refuses is no verdict on who met.
        except TimeUpError:
            break  # A network had to be made again and the run has no time for it: who stands, stands.
        except ParingError:
            faster, failed = failed, not failed
        else:
            failed = False
        if faster:
            champion = challenger
    return champion
