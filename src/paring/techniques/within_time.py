"""Formats of least harm whose network was measured to hold a limit of time.

Which layers are in integers decides how long a network takes; of how many levels these are makes no difference. Times
of layers don't add up: around a layer in floating point values are converted, which neighbours share, and some layers
are slower in integers. So networks are timed: all there are of few layers; of more those that gains tell, which are
corrected by every network that was timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from paring.errors import TechniqueError
from paring.ops.assignment import ROUNDING, Chosen, Numbers, least_harm, total
from paring.ops.trying import Holds, tried_nearby
from paring.techniques.layer_times import TimeRatio

Floats: TypeAlias = frozenset[int]
"""The layers, by number, that are in floating point."""

MOST_TIMED = 64
"""Of the ways to leave layers in floating point: all of up to 6 layers."""

MOST_STEPS = 12
"""Towards the limit, where there are more: each times a network."""

MOST_TRIES = 512
"""Of whole networks, where harm is measured. Six layers of five choices have thousands that hold a limit; on a trained
network the best of them all was found with 256, at each of seven limits."""


@dataclass(frozen=True)
class Harms:
    """What the options of layers do to a network's outputs, each alone, and together where whole networks are run."""

    alone: Numbers
    together: Callable[[Chosen], float] | None = None

    def least(self, starts: Iterable[Chosen], holds: Holds) -> Chosen:
        """The least among choices that hold: of the starts, and of what is near them where networks are run."""
        if self.together:
            return tried_nearby(starts, self.alone, holds, self.together, MOST_TRIES)
        return min(starts, key=lambda chosen: total(self.alone, chosen))

    def least_at(self, costs: Numbers, most_cost: float) -> Chosen:
        """The least whose costs sum to `most_cost` or less. TechniqueError where the cheapest options cost more."""
        limit = most_cost + abs(most_cost) * ROUNDING
        return self.least([least_harm(self.alone, costs, most_cost).chosen], lambda one: total(costs, one) <= limit)


@dataclass(frozen=True)
class Times:
    """How long networks take, as shares of the float one's time.

    `share` times the network with those layers in floating point, `gains` what each layer gains by integers.
    """

    layers: int
    share: Callable[[Floats], TimeRatio]
    gains: Callable[[float], list[float]]


def least_harm_in_time(harms: Harms, float_option: int, times: Times, limit: float) -> Chosen:
    """The choice of least harm whose network was measured to take at most `limit`. TechniqueError where none does."""
    found = _Choices(harms, float_option, times, limit)
    return found.of_all() if 2**times.layers <= MOST_TIMED else found.by_gains()


class _Choices:
    """Networks that were timed, and the choices that have them."""

    def __init__(self, harms: Harms, float_option: int, times: Times, limit: float) -> None:
        self.harms, self.float_option, self.times, self.limit = harms, float_option, times, limit
        self.original = Floats(range(times.layers))
        self.timed = {self.original: TimeRatio(1.0, 1.0, 1.0)}

    def of_all(self) -> Chosen:
        """The best, where every network can be timed but the one whose layers all are in floating point."""
        layers = range(self.times.layers)
        for size in layers:
            for some in combinations(layers, size):
                self._time(frozenset(some))
        return self._least_held()

    def by_gains(self) -> Chosen:
        """The best of those that gains of layers tell to try."""
        integers = self._time(Floats())
        gains = corrected(self.times.gains(integers), self.original, 1 - integers)
        for _ in range(MOST_STEPS):
            room = self.limit - integers - sum(min(gain, 0.0) for gain in gains)
            floats = self._floats(self.harms.least_at(self._costs(gains), max(room, 0.0)))
            if self._holds(floats):
                break
            gains = corrected(gains, floats, self._time(floats) - integers)
        return self._least_held()

    def _time(self, floats: Floats) -> float:
        if floats not in self.timed:
            self.timed[floats] = self.times.share(floats)
        return self.timed[floats].middle

    def _holds(self, floats: Floats) -> bool:
        return floats in self.timed and self.timed[floats].middle <= self.limit

    def _floats(self, chosen: Chosen) -> Floats:
        return Floats(layer for layer, option in enumerate(chosen) if option == self.float_option)

    def _costs(self, gains: Sequence[float]) -> Numbers:
        """Of each option beside the faster one of its layer."""
        return [
            [max(gain, 0.0) if option == self.float_option else max(-gain, 0.0) for option in range(len(options))]
            for gain, options in zip(gains, self.harms.alone, strict=True)
        ]

    def _least_held(self) -> Chosen:
        starts = [self._least_with(floats) for floats in self.timed if self._holds(floats)]
        if not starts:
            fastest = min((ratio for floats, ratio in self.timed.items() if floats != self.original), key=_middle)
            raise TechniqueError(
                f"latency_share={self.limit} can't be held: the fastest of {len(self.timed) - 1} quantized networks "
                f"takes {fastest} of the time that it takes in floating point."
            )
        return self.harms.least(starts, lambda chosen: self._holds(self._floats(chosen)))

    def _least_with(self, floats: Floats) -> Chosen:
        """The least harm of each layer, in floating point where it is to be."""
        return tuple(
            self.float_option
            if layer in floats
            else min((each for each in range(len(options)) if each != self.float_option), key=options.__getitem__)
            for layer, options in enumerate(self.harms.alone)
        )


def _middle(ratio: TimeRatio) -> float:
    return ratio.middle


def corrected(gains: Sequence[float], floats: Floats, found: float) -> list[float]:
    """Gains of which those of `floats` sum to what was found, each changed in proportion to its size.

    A projection (Kaczmarz 1937) in which a small gain can't be far wrong.
    """
    sizes = [abs(gain) for gain in gains]
    least = 0.01 * max(sizes) or 1.0
    weights = {layer: max(sizes[layer], least) for layer in floats}
    missing = (found - sum(gains[layer] for layer in floats)) / (sum(weights.values()) or 1.0)
    return [gain + missing * weights.get(layer, 0.0) for layer, gain in enumerate(gains)]
