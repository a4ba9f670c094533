"""Options of a backend that can't win, as the original shows: each of them would cost a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paring.tune.candidate import Candidate
from paring.tune.trial import Trial

BEYOND_OPTIONS = 4.0
"""A backend that takes so many times as long as another one is not saved by its options."""

FAR_SLOWER = 2.0
"""Options that slow the original down so much on their backend are not tried on what was made of it."""


def judged(candidate: Candidate, trials: Sequence[Trial]) -> Candidate:
    """The candidate, marked as hopeless where its options are.

    Where the original ran with the very options, that is held against the backend's other options; before that, what
    the backend made of it at its best is held against the other backends.
    """
    ratios = {t.backend_text: t.speedup.ratio for t in trials if not t.recipe and t.speedup is not None}
    siblings = {t.backend_text for t in trials if t.backend["name"] == candidate.backend.name} & ratios.keys()
    if not siblings:
        return candidate
    own = str(candidate.backend)
    measured = own in ratios
    seen = own if measured else max(siblings, key=lambda name: ratios[name])
    best = max(siblings if measured else ratios, key=lambda name: ratios[name])
    times = ratios[best] / ratios[seen]
    if times <= (FAR_SLOWER if measured else BEYOND_OPTIONS):
        return candidate
    return replace(candidate, hopeless=f"the original on {seen} takes {times:.1f} times as long as on {best}")
