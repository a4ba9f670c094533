"""How much where: choices of several places, in the order in which they cost least for what they give."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

QUICK_ERROR = 0.05
"""How far the gain of a quick comparison may be off, as a share of the whole cost."""


def least_harm_first(
    places: Sequence[Hashable], gains: Sequence[float], harms: Sequence[float], gain_error: float = 0.0
) -> list[int]:
    """The choices, by index, in the order in which to take them: one takes the place of an earlier one at its place.

    Of each place those count that lie on the lower convex hull of harm over gain, which leaves out every choice that
    another one beats in both; their steps, of all places, come in the order of harm for gain. So every prefix does the
    least harm for what it gains, but for the size of one step: the greedy of the linear multiple-choice knapsack
    (Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem). Negative harms count as none; choices that gain
    nothing are never taken. `gain_error`, by which a gain may be off, is added to every step's gain: what may gain
    nothing must not look cheap.
    """
    steps: list[tuple[float, int, float, int]] = []
    for place in dict.fromkeys(places):
        before, price = (0.0, 0.0), 0.0
        for level, index in enumerate(_hull([i for i, other in enumerate(places) if other == place], gains, harms)):
            gain, harm = gains[index] - before[0], max(harms[index], 0.0) - before[1]
            # Never before what it takes the place of, whatever the error adds.
            price = max(price, harm / (gain + gain_error))
            steps.append((price, level, -gain, index))
            before = gains[index], max(harms[index], 0.0)
    return [index for *_, index in sorted(steps)]


def _hull(choices: Sequence[int], gains: Sequence[float], harms: Sequence[float]) -> list[int]:
    """Those on the lower convex hull from (0, 0), by gain."""
    kept: list[int] = []

    def point(index: int) -> tuple[float, float]:
        return gains[index], max(harms[index], 0.0)

    for index in sorted((i for i in choices if gains[i] > 0), key=lambda i: (gains[i], -harms[i])):
        gain, harm = point(index)
        while kept:
            before = point(kept[-2]) if len(kept) > 1 else (0.0, 0.0)
            last = point(kept[-1])
            # The last one lies on or above the line from the one before it to this one.
            if (last[1] - before[1]) * (gain - before[0]) < (harm - before[1]) * (last[0] - before[0]):
                break
            kept.pop()
        kept.append(index)
    return kept
