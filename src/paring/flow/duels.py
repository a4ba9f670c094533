"""Comparisons at length: who met whom, and the originals' times in one series with those of the answer."""

from __future__ import annotations

from dataclasses import replace

from paring.flow.originals import Originals
from paring.flow.trials import latency_json
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.tune import EVEN, Speedup, Trial


class Duels:
    """What the comparisons at length of a run showed."""

    def __init__(self) -> None:
        self._speedups: dict[str, dict[str, Speedup]] = {}
        self._last: dict[str, Trial] = {}

    def add(self, one: Trial, other: Trial, found: Comparison) -> None:
        """Remember a comparison of `one` with `other`."""
        speedup = Speedup(found.ratio, found.low, found.high)
        self._speedups.setdefault(one.key, {})[other.key] = speedup
        self._speedups.setdefault(other.key, {})[one.key] = EVEN.over(speedup)
        self._last |= {trial.key: trial for trial in measured_at_length(one, other, found)}

    def speedup(self, one: Trial, other: Trial) -> Speedup | None:
        """Of `one` over `other`, by the last time that they met; None where they did not."""
        return self._speedups.get(one.key, {}).get(other.key)

    def over(self, trial: Trial) -> dict[str, Speedup]:
        """The speed-ups over a trial, by key: of itself, who met it, and who met one of these; by the fewest steps."""
        found, reached = {trial.key: EVEN}, [trial.key]
        for key in reached:
            for other, speedup in self._speedups.get(key, {}).items():
                if other not in found:
                    found[other] = found[key].over(speedup)
                    reached.append(other)
        return found

    def latest(self, trial: Trial) -> Trial:
        """A trial with the figures of its last comparison, or with its quick ones where it has none."""
        return self._last.get(trial.key, trial)

    def kept(self, original: Trial) -> Trial:
        """The original that is returned: what the others are compared with."""
        return replace(self.latest(original), speedup=EVEN)


def measured_at_length(one: Trial, other: Trial, found: Comparison) -> tuple[Trial, Trial]:
    """Both with the figures of their comparison in place of the quick ones, and speed-ups over the other."""
    speedup = Speedup(found.ratio, found.low, found.high)
    return (
        _with_figures(one, found.candidate, speedup, found.candidate_peak_memory_bytes),
        _with_figures(other, found.original, EVEN, found.original_peak_memory_bytes),
    )


def _with_figures(trial: Trial, latency: Latency, speedup: Speedup, peak_memory_bytes: int) -> Trial:
    return replace(
        trial,
        latency_ms=latency_json(latency),
        throughput_per_s=latency.throughput_per_s,
        speedup=speedup,
        peak_memory_bytes=peak_memory_bytes,
        at_length=True,
    )


def in_one_series(originals: Originals, baseline: Trial, duels: Duels) -> list[Trial]:
    """The original on every backend by what it takes beside `baseline`, the one whose times the answer tells.

    Times of different moments can't be compared, speed-ups that were measured in turn can. Who met at length is placed
    by that, the others by their quick speed-ups over the one that is the fastest by these: so bad luck of the baseline
    in the search makes none of them look faster than it.
    """
    met = duels.over(baseline)
    quick = {trial.key: trial.speedup for trial in originals.timed if trial.speedup}
    fastest = originals.fastest.key
    reference = quick[fastest].over(met[fastest]) if fastest in met else quick[baseline.key]
    placed = []
    for trial in originals.timed:
        speedup = met.get(trial.key) or quick[trial.key].over(reference)
        beside = _beside(duels.latest(trial), baseline, speedup, at_length=trial.key in met)
        placed.append(baseline if trial.key == baseline.key else beside)
    return placed


def _beside(trial: Trial, baseline: Trial, speedup: Speedup, *, at_length: bool) -> Trial:
    """A trial by its speed-up over `baseline`; what its slow calls took stays in proportion."""
    latency = trial.latency_ms
    if latency and baseline.latency_ms:
        scale = baseline.latency_ms["p50"] / speedup.ratio / latency["p50"]
        latency = {name: scale * value_ms for name, value_ms in latency.items()}
    throughput = baseline.throughput_per_s and baseline.throughput_per_s * speedup.ratio
    return replace(trial, latency_ms=latency, throughput_per_s=throughput, speedup=speedup, at_length=at_length)
