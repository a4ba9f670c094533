"""The end of a run: certify, measure beside the fastest original, and write what was found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paring import __version__
from paring.artifact import Artifact, Manifest
from paring.artifact.files import write_json
from paring.backends.isolated import Deployment, IsolatedSession
from paring.certify import Certificate
from paring.errors import BudgetError
from paring.flow.answer import Findings, point_json, result_json
from paring.flow.finalists import FINAL_SHARE, Finalist, Finals
from paring.flow.prepare import Prepared
from paring.flow.result import Result
from paring.measure.compare import Comparison, compare
from paring.measure.hardware import hardware
from paring.measure.size import network_files
from paring.report import write_report
from paring.tune import Candidate, Ranking, Trial

FINAL_LOOKS = 2
GOLDEN_ROWS = 16
FAMILY = 8
FAMILY_DROPS = 3.0
"""Members of the family lose at most so many times what the budget allows: the server may step down that far."""

COMPARISON_LIMIT_S = 20.0
SHORTEST_COMPARISON_S = 2.0
COMPARISON_SHARE = 0.4
"""Of the time that is left, for the comparison that the answer rests on."""

SOURCE_SHARE = 0.25
NEARLY = 0.95
"""Originals this close to the fastest one are compared with as well: a quick comparison can't tell them apart."""


@dataclass(frozen=True)
class Winner:
    """A certified finalist that is better than the original on its fastest backend."""

    trial: Trial
    finalist: Finalist
    comparison: Comparison


class Ending:
    """Draws the conclusion from the trials of a run."""

    def __init__(
        self,
        prepared: Prepared,
        ranking: Ranking,
        candidates: Mapping[str, Candidate],
        trials: Sequence[Trial],
        end_s: float,
    ) -> None:
        self.prepared = prepared
        self.end_s = end_s
        self.ranking = ranking
        self.candidates = candidates
        self.trials = trials
        self.finals = Finals(prepared)
        timed = [t for t in trials if not t.recipe and t.speedup is not None]
        if not timed:
            reasons = "; ".join(t.reason for t in trials if t.reason)
            limit_s = prepared.request.time_limit_s
            raise BudgetError(
                f"no backend ran the original within time_limit_s={limit_s:g} {f'({reasons}) ' if reasons else ''}: "
                "allow more time."
            )
        self.originals = sorted(timed, key=lambda t: -(t.speedup.ratio if t.speedup else 0.0))

    @property
    def original(self) -> Trial:
        """The original on its fastest backend."""
        return self.originals[0]

    def winner(self) -> tuple[Winner | None, str]:
        """What to return instead of the original; None with the reason where nothing is both certified and better."""
        reason = "no candidate kept the accuracy within the budget and was better than the original"
        for finalist in self._finalists():
            trial = next(t for t in self.trials if t.key == finalist.key)
            allowed = self.prepared.request.budget.max_drop
            if not finalist.certificate.meets(allowed):
                reason = f"{trial.recipe_text} on {trial.backend_text} was not certified: {finalist.certificate}"
                continue
            comparison = self._against_originals(self.candidates[trial.key])
            if self._better(trial, comparison):
                return Winner(trial, finalist, comparison), ""
            reason = (
                f"{trial.recipe_text} on {trial.backend_text} was not faster than the original on "
                f"{self.original.backend_text}: {comparison.ratio:.3f}x ({comparison.low:.3f} to {comparison.high:.3f})"
            )
        return None, reason

    def _finalists(self) -> list[Finalist]:
        """Two looks at the best candidates, the second only if the first fails; then what was certified early."""
        usual = self.ranking.cost(self.original)
        pool = [t for t in self.trials if t.recipe and self.ranking.feasible(t) and self.ranking.cost(t) < usual]
        pool = [t for t in pool if t.key in self.candidates]
        looks: list[Finalist] = []
        for trial in sorted(pool, key=self.ranking.cost):
            safer = not looks or self.ranking.likely_bound(trial) < self.ranking.likely_bound(self._trial(looks[-1]))
            if len(looks) < FINAL_LOOKS and safer:
                looks.append(self.finals.certify(self.candidates[trial.key], FINAL_SHARE))
                if looks[-1].certificate.meets(self.prepared.request.budget.max_drop):
                    break
        return [*looks, *(f for f in self.finals.seen if f.key not in {look.key for look in looks})]

    def _trial(self, finalist: Finalist) -> Trial:
        return next(t for t in self.trials if t.key == finalist.key)

    def _against_originals(self, candidate: Candidate) -> Comparison:
        """The comparison with the fastest original; where others are as fast, the least favourable one counts."""
        best = self.original.speedup
        near = [t for t in self.originals if t.speedup and best and t.speedup.ratio >= NEARLY * best.ratio][:2]
        deployment = self.finals.deployment(candidate)
        rivals = [self.deployment(t) for t in near if t.key in self.candidates]
        found = [self.compared(deployment, rival, COMPARISON_SHARE / len(rivals)) for rival in rivals]
        return min(found, key=lambda comparison: comparison.ratio)

    def _better(self, trial: Trial, comparison: Comparison) -> bool:
        """Faster for sure, or smaller and not slower."""
        if self.prepared.request.budget.objective in ("latency", "throughput"):
            return comparison.low > 1
        return self.ranking.cost(trial) < self.ranking.cost(self.original) and comparison.high >= 1

    def deployment(self, trial: Trial) -> Deployment:
        """A trial's network in its backend."""
        return self.finals.deployment(self.candidates[trial.key])

    def over_source(self, chosen: Trial) -> Comparison | None:
        """Against the model as it came: torch as it is, or for a graph the first backend."""
        source = next(
            (t for t in self.originals if t.backend["name"] == "torch" and not any(t.backend["options"].values())), None
        )
        if source is None:
            source = min(self.originals, key=lambda t: t.number)
        if source.key == chosen.key:
            return None
        return self.compared(self.deployment(chosen), self.deployment(source), SOURCE_SHARE)

    def compared(self, candidate: Deployment, original: Deployment, share: float) -> Comparison:
        """Both in turn, processes started anew until the interval is narrow or a share of the time left is spent."""
        limit_s = min(COMPARISON_LIMIT_S, max(SHORTEST_COMPARISON_S, share * (self.end_s - time.monotonic())))
        workload, seed = self.prepared.workload, self.prepared.request.seed
        return compare(candidate, original, workload, time_limit_s=limit_s, seed=seed)

    def family(self) -> list[Trial]:
        """The frontier within a few times the budget, fastest first; the original on its fastest backend ends it."""
        limit = FAMILY_DROPS * self.prepared.request.budget.max_drop
        pool = [t for t in self.trials if t.key in self.candidates and (t.drop or 0.0) <= limit]
        frontier = [t for t in self.ranking.frontier(pool) if t.recipe][: FAMILY - 1]
        return [*frontier, self.original]

    def write(self, path: Path, trial: Trial, certificate: Certificate | None) -> Artifact:
        """An artifact of a trial (with the figures that it holds) and golden rows from this machine."""
        candidate, prepared = self.candidates[trial.key], self.prepared
        deployment = self.finals.deployment(candidate)
        inputs, _ = prepared.splits.selection.take(0, min(GOLDEN_ROWS, len(prepared.splits.selection)))
        with IsolatedSession.of(deployment, threads=prepared.request.thread_count) as session:
            outputs = session.run(inputs)
        manifest = Manifest(
            task=prepared.request.task.name,
            signature=prepared.signature,
            backend=candidate.backend.name,
            options=candidate.backend.options(),
            recipe=trial.recipe,
            recipe_text=trial.recipe_text,
            threads=prepared.request.thread_count,
            batch_size=prepared.request.budget.batch_size,
            measurements=point_json(trial),
            certificate=certificate.to_json() if certificate else None,
            hardware=hardware(),
            version=__version__,
        )
        outputs = {name: np.asarray(outputs[name]) for name in prepared.signature.output_names}
        return Artifact.write(path, manifest, network_files(deployment.network), (inputs, outputs))


def conclude(
    prepared: Prepared,
    ranking: Ranking,
    candidates: Mapping[str, Candidate],
    trials: Sequence[Trial],
    start_s: float,
) -> Result:
    """Certify, measure, write OUT/best, OUT/frontier, result.json and the report."""
    ending = Ending(prepared, ranking, candidates, trials, start_s + prepared.request.time_limit_s)
    winner, reason = ending.winner()
    findings = Findings.of(ending.original, winner.trial if winner else None, ranking, trials, reason)
    chosen = winner.trial if winner else ending.original
    if winner:
        findings = findings.measured_at_length(winner.comparison, winner.finalist.certificate)
    findings = replace(findings, over_source=ending.over_source(chosen))
    root = prepared.folder.root
    certificate = winner.finalist.certificate if winner else None
    best = None
    if findings.status != "infeasible":
        best = ending.write(root / "best", findings.best, certificate)
    family = write_family(ending, root / "frontier", {f.key: f.certificate for f in ending.finals.seen})
    on_frontier = {t.key for t in ranking.frontier(trials)}
    marked = [replace(t, frontier=t.key in on_frontier) for t in trials]
    prepared.folder.rewrite(marked)
    values = result_json(prepared, findings, marked, ending.originals, time.monotonic() - start_s)
    write_json(prepared.folder.result, values)
    report = write_report(root)
    return Result(findings.status, findings.reason, best, family, tuple(marked), report, values)


def write_family(ending: Ending, folder: Path, certificates: Mapping[str, Certificate]) -> tuple[Artifact, ...]:
    """OUT/frontier/NN, fastest first."""
    shutil.rmtree(folder, ignore_errors=True)
    return tuple(
        ending.write(folder / f"{number:02d}", trial, certificates.get(trial.key))
        for number, trial in enumerate(ending.family(), start=1)
    )
