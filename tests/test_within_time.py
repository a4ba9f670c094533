"""Formats under a limit of measured time, where times are given: against all there are, with many layers too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest

from paring.errors import TechniqueError
from paring.ops.assignment import Chosen, total
from paring.techniques.layer_times import TimeRatio
from paring.techniques.within_time import MOST_STEPS, Floats, Harms, Times, corrected, least_harm_in_time

LAYERS = 12
FLOAT = 2
GENERATOR = np.random.default_rng(0)
ALONE = [[*sorted(GENERATOR.uniform(0, 1, 2).tolist()), 0.0] for _ in range(LAYERS)]
GAINS = GENERATOR.dirichlet(np.ones(LAYERS)) * 0.6
SLOWER = GAINS - 0.03
"""Some layers are slower in integers."""


def of_layers(gains: np.typing.NDArray[np.float64]) -> Callable[[Floats], float]:
    """Gains that add up."""
    return lambda floats: float(1 - gains.sum() + gains[list(floats)].sum())


def between_neighbours(floats: Floats) -> float:
    """Wherever integers and floats meet, values are converted."""
    meet = sum((layer in floats) != (layer + 1 in floats) for layer in range(LAYERS - 1))
    return of_layers(GAINS)(floats) + 0.01 * meet


def saturating(floats: Floats) -> float:
    """What few layers cost in floating point is most of what all do."""
    return 0.4 + 0.6 * (of_layers(GAINS)(floats) / 0.6 - 0.4 / 0.6) ** 0.5


def times_of(told: Callable[[Floats], float], timed: list[Floats]) -> Times:
    """What networks are told to take."""

    def share(floats: Floats) -> TimeRatio:
        timed.append(floats)
        return TimeRatio(*[told(floats)] * 3)

    return Times(LAYERS, share, lambda integers: [told(Floats({layer})) - integers for layer in range(LAYERS)])


def floats_of(chosen: Chosen) -> Floats:
    """The layers that stay in floating point."""
    return Floats(layer for layer, option in enumerate(chosen) if option == FLOAT)


def every_way() -> Iterator[Floats]:
    """To leave some layers in floating point, but not all."""
    return (Floats(np.flatnonzero(some).tolist()) for some in product((0, 1), repeat=LAYERS) if not all(some))


@pytest.mark.parametrize("place", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(
    ("told", "over_best"),
    [(of_layers(GAINS), 1.02), (of_layers(SLOWER), 1.02), (between_neighbours, 1.3), (saturating, 1.3)],
    ids=["they add up", "some are slower", "neighbours share", "few cost most"],
)
def test_of_many_layers_few_networks_are_timed(told: Callable[[Floats], float], over_best: float, place: float) -> None:
    """Where times add up, the best is found; elsewhere one that holds the limit, and uses it."""
    fastest = min(map(told, every_way()))
    limit = fastest + place * (1 - fastest)
    least = [min(options[:FLOAT]) for options in ALONE]
    held = (floats for floats in every_way() if told(floats) <= limit)
    best = min(sum(harm for layer, harm in enumerate(least) if layer not in floats) for floats in held)
    timed: list[Floats] = []
    found = least_harm_in_time(Harms(ALONE), FLOAT, times_of(told, timed), limit)
    assert told(floats_of(found)) <= limit
    assert total(ALONE, found) <= over_best * best + 1e-12
    assert len(timed) == len(set(timed)) <= MOST_STEPS + 1


def test_a_limit_that_only_layers_in_floating_point_hold() -> None:
    """Integers everywhere take longer than the original; the faster layers alone do not."""
    gains = np.where(np.arange(LAYERS) < 6, 0.05, -0.08)
    found = least_harm_in_time(Harms(ALONE), FLOAT, times_of(of_layers(gains), []), 0.75)
    assert floats_of(found) >= Floats(range(6, LAYERS))
    assert of_layers(gains)(floats_of(found)) <= 0.75


def test_a_limit_that_nothing_holds_is_told() -> None:
    with pytest.raises(TechniqueError, match=r"latency_share=0.3 can't be held: the fastest of \d+ quantized networks"):
        least_harm_in_time(Harms(ALONE), FLOAT, times_of(of_layers(GAINS), []), 0.3)


def test_gains_are_corrected_by_what_a_network_was_found_to_take() -> None:
    gains = corrected([0.3, 0.1, 0.0, 0.2], Floats({0, 1}), 0.2)
    assert gains == pytest.approx([0.15, 0.05, 0.0, 0.2])
    assert sum(corrected([0.0, 0.0], Floats({0, 1}), 0.5)) == pytest.approx(0.5)
