"""result.json: the answer as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from paring import __version__
from paring.backends.base import Backend
from paring.certify import Certificate
from paring.flow.choosing import Winner
from paring.flow.finalists import Finals
from paring.flow.ledger import Finalist
from paring.flow.prepare import Prepared
from paring.flow.reasons import missed
from paring.flow.result import Status
from paring.measure.compare import Comparison
from paring.measure.hardware import hardware
from paring.techniques.base import Recipe, Technique, described
from paring.tune import Ranking, Speedup, Trial

POINT_FIELDS = (
    "recipe",
    "recipe_text",
    "backend",
    "backend_text",
    "latency_ms",
    "throughput_per_s",
    "size_bytes",
    "peak_memory_bytes",
    "score",
    "drop",
    "speedup",
    "at_length",
    "number",
)


@dataclass(frozen=True)
class Findings:
    """What the run found, before it is written."""

    status: Status
    reason: str
    best: Trial
    baseline: Trial
    nearest: tuple[tuple[Trial, str], ...] = ()
    comparison: Comparison | None = None
    over_source: Speedup | None = None
    certificate: Certificate | None = None
    zeros: str = ""

    @classmethod
    def won(cls, winner: Winner) -> Self:
        """A candidate that is certified and better than the original."""
        return cls(
            "improved",
            winner.passed_over,
            winner.trial,
            winner.original,
            comparison=winner.comparison,
            certificate=winner.certificate,
        )

    @classmethod
    def without_winner(cls, original: Trial, ranking: Ranking, trials: Sequence[Trial], reason: str) -> Self:
        """Infeasible if the original itself breaks a limit of the budget; else it is kept."""
        broken = ranking.misses(original)
        if not broken:
            return cls("kept-original", reason, original, original)
        binding = f"the original misses the budget ({missed(broken)}), and {reason}"
        return cls("infeasible", binding, original, original, nearest_points(trials, ranking))


def nearest_points(trials: Sequence[Trial], ranking: Ranking) -> tuple[tuple[Trial, str], ...]:
    """The points on each side of an infeasible budget: fewest limits missed, least drop, fastest, smallest."""
    pool = [t for t in trials if t.latency_ms is not None]
    ways: tuple[Callable[[Trial], float], ...] = (
        lambda t: len(ranking.misses(t)),
        lambda t: float("inf") if t.drop is None else t.drop,
        lambda t: t.latency_ms["p50"] if t.latency_ms else float("inf"),
        lambda t: t.size_bytes or float("inf"),
    )
    by_cost = sorted(pool, key=ranking.cost)  # Of equals the better one: `min` keeps the first.
    chosen = {nearest.key: nearest for way in ways if by_cost for nearest in [min(by_cost, key=way)]}
    return tuple((t, missed(ranking.misses(t)) or "its drop was not certified") for t in chosen.values())


def point_json(trial: Trial) -> dict[str, Any]:
    """What result.json says of one recipe on one backend."""
    values = trial.to_json()
    return {name: values[name] for name in POINT_FIELDS}


def speedup_json(comparison: Comparison | Speedup | None) -> dict[str, float] | None:
    """Ratio and interval."""
    if comparison is None:
        return None
    return {"ratio": comparison.ratio, "low": comparison.low, "high": comparison.high}


def _finalist_json(finalist: Finalist, trials: Sequence[Trial]) -> dict[str, Any]:
    """One look at the certification rows, and what it showed."""
    texts = next(
        ({"recipe_text": t.recipe_text, "backend_text": t.backend_text} for t in trials if t.key == finalist.key), {}
    )
    return {
        **texts,
        "certified": finalist.certified,
        "share": finalist.share,
        "told": finalist.told,
        "elapsed_s": finalist.elapsed_s,
    }


def _chosen(kinds: Iterable[Technique | Backend | type[Technique | Backend] | Recipe] | None) -> list[str] | None:
    """What was chosen to be tried, as people write it; None where that was all."""
    return None if kinds is None else [_called(kind) for kind in kinds]


def _called(kind: Technique | Backend | type[Technique | Backend] | Recipe) -> str:
    if isinstance(kind, tuple):
        return described(kind)
    if isinstance(kind, type):
        return kind.name if issubclass(kind, Backend) else kind.__name__
    return str(kind)


def result_json(
    prepared: Prepared, findings: Findings, trials: Sequence[Trial], originals: Sequence[Trial], finals: Finals
) -> dict[str, Any]:
    """The whole of result.json."""
    request = prepared.request
    unchanged = {"ratio": 1.0, "low": 1.0, "high": 1.0}
    certificate = None
    if findings.certificate is not None:
        smallest = prepared.smallest_certifiable_drop
        certificate = {**findings.certificate.to_json(), "smallest_certifiable_drop": smallest}
    return {
        "task": request.task.name,
        "status": findings.status,
        "reason": findings.reason,
        "zeros": findings.zeros,
        "budget": asdict(request.budget),
        "threads": request.thread_count,
        "seed": request.seed,
        "time_limit_s": request.time_limit_s,
        "techniques": _chosen(request.techniques),
        "backends": _chosen(request.backends),
        "version": __version__,
        "best": None if findings.status == "infeasible" else point_json(findings.best),
        "baseline": point_json(findings.baseline),
        "baselines": [point_json(original) for original in originals],
        "speedup": speedup_json(findings.comparison) or unchanged,
        "speedup_over_source": speedup_json(findings.over_source),
        "certificate": certificate,
        "finalists": [_finalist_json(finalist, trials) for finalist in finals.taken],
        "discarded_looks": prepared.ledger.before,
        "coverage": findings.best.coverage,
        "nearest": [{**point_json(trial), "misses": missed} for trial, missed in findings.nearest],
        "unavailable": [{"backend": name, "reason": reason} for name, reason in prepared.unavailable.items()],
        "not_tried": [{"what": what, "reason": reason} for what, reason in prepared.not_tried.items()],
        "trials": dict(Counter(trial.outcome for trial in trials)),
        "hardware": hardware(),
        "first_certified_s": finals.first_certified_s,
        "wall_time_s": round(prepared.clock.spent_s, 1),
    }
