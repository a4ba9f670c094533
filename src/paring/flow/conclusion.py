"""The end of a run: certify, measure beside the fastest original, and write what was found."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from paring import __version__
from paring.artifact import Artifact, Manifest
from paring.artifact.files import replacing_folder, write_json
from paring.backends.isolated import Deployment
from paring.certify import Certificate
from paring.errors import (
    BackendError,
    BudgetError,
    ExportError,
    OutputError,
    ParingError,
    TechniqueError,
    TimeUpError,
)
from paring.flow.answer import Findings, point_json, result_json, with_latency
from paring.flow.finalists import Finalist, Finals
from paring.flow.prepare import EARLY_SHARE, FINAL_SHARE, Prepared
from paring.flow.result import Result
from paring.flow.workload import golden_outputs
from paring.measure.compare import Comparison, compare
from paring.measure.hardware import hardware
from paring.measure.size import network_files
from paring.report import write_report
from paring.tune import Candidate, Ranking, Speedup, Trial
from paring.tune.playoff import played_off

GOLDEN_ROWS = 16
FAMILY = 8
FAMILY_DROPS = 3.0
"""Members of the family lose at most so many times what the budget allows: the server may step down that far."""

COMPARISON_LIMIT_S = 20.0
SHORTEST_COMPARISON_S = 2.0
COMPARISON_SHARE = 0.4
"""Of the time that is left, for the comparison that the answer rests on."""

SOURCE_SHARE = 0.25
RIVALS = 3
NEARLY = 0.95
"""Originals this close to the fastest one are compared with as well: a quick comparison can't tell them apart."""


@dataclass(frozen=True)
class Winner:
    """A certified finalist that is better than the original: `trial` and `original` with the figures of their duel."""

    trial: Trial
    original: Trial
    certificate: Certificate
    comparison: Comparison


class Ending:
    """Draws the conclusion from the trials of a run."""

    def __init__(
        self,
        prepared: Prepared,
        ranking: Ranking,
        candidates: Mapping[str, Candidate],
        trials: Sequence[Trial],
        finals: Finals,
    ) -> None:
        self.prepared = prepared
        self.ranking = ranking
        self.candidates = candidates
        self.trials = trials
        self.finals = finals
        timed = [t for t in trials if not t.recipe and t.outcome == "measured" and t.speedup is not None]
        if not timed:
            reasons = "; ".join(t.reason for t in trials if t.reason)
            limit_s = prepared.request.time_limit_s
            raise BudgetError(
                f"no backend ran the original within time_limit_s={limit_s:g} {f'({reasons}) ' if reasons else ''}: "
                "allow more time."
            )
        self.originals = sorted(timed, key=lambda t: -(t.speedup.ratio if t.speedup else 0.0))
        self.rivals = [t for t in self.originals if not ranking.misses(t)] or self.originals

    @property
    def original(self) -> Trial:
        """The original on its fastest backend, of those that hold the budget's limits where any does."""
        return self.rivals[0]

    def winner(self) -> tuple[Winner | None, str]:
        """What to return instead of the original; None with the reason where nothing is both certified and better."""
        reason = self._why_none()
        for finalist, trial in self._finalists():
            if finalist.certificate is None or not finalist.certified:
                reason = f"{trial.recipe_text} on {trial.backend_text} was not certified: {finalist.told}"
                continue
            try:
                winner = self._duel(trial, finalist.certificate)
            except OutputError:
                raise  # A disk that refuses is no verdict on the candidate.
            except ParingError as error:
                reason = f"{trial.recipe_text} on {trial.backend_text} failed when it was measured at length: {error}"
                continue
            reason = self._flaw(winner)
            if not reason:
                return winner, ""
        return None, self.finals.refused or reason

    def _why_none(self) -> str:
        """Why nothing is returned where no candidate even came to a look."""
        tried = [t for t in self.trials if t.recipe]
        if not tried:
            return "the time limit ended before anything but the original was tried"
        if not any(t.outcome == "measured" for t in tried):
            counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(t.outcome for t in tried).items())
            return f"no candidate could be measured ({counts}; the first: {tried[0].reason})"
        return "no candidate kept the accuracy within the budget and was better than the original"

    def _finalists(self) -> list[tuple[Finalist, Trial]]:
        """Looks at the best candidates until one is certified or no look is left; then those looked at before."""
        usual = float("inf") if self.ranking.misses(self.original) else self._usual_cost()
        trials = {t.key: t for t in self.trials if t.key in self.candidates}
        pool = [t for t in trials.values() if t.recipe and self.ranking.hopeful(t) and self.ranking.cost(t) < usual]
        looks: dict[str, Finalist] = {}
        failed = float("inf")
        for trial in self._ranked(pool):
            share = self.finals.next_share
            if share < FINAL_SHARE and not self.ranking.feasible(trial):
                continue
            if self.ranking.likely_bound(trial) < failed:
                try:
                    finalist = self.finals.look(self.candidates[trial.key], share)
                except TimeUpError:
                    break
                if finalist is not None:
                    looks[trial.key] = finalist
                    failed = self.ranking.likely_bound(trial)
                if finalist is not None and finalist.certified:
                    break
        looks |= {f.key: f for f in self.finals.seen if f.key not in looks}
        return [(finalist, trials[key]) for key, finalist in looks.items() if key in trials]

    def _ranked(self, pool: Sequence[Trial]) -> list[Trial]:
        """The cheapest first; where cost is time, those that are close have met."""
        ranked = sorted(pool, key=self.ranking.cost)
        if self.prepared.request.budget.objective not in ("latency", "throughput"):
            return ranked
        looked_at = {finalist.key for finalist in self.finals.seen if finalist.share > EARLY_SHARE}
        return played_off(ranked, self.ranking.cost, self._met, self.prepared.clock.conclusion_left_s, looked_at)

    def _met(self, challenger: Trial, champion: Trial, time_limit_s: float) -> Comparison:
        return self.compared(self.deployment(challenger), self.deployment(champion), time_limit_s)

    def _usual_cost(self) -> float:
        """What the objective costs with the best original."""
        return min(self.ranking.cost(t) for t in self.rivals)

    def _duel(self, trial: Trial, certificate: Certificate) -> Winner:
        """Measured at length against each original that may be the fastest; the least favourable one counts."""
        best = self.original.speedup
        near = [t for t in self.rivals if t.speedup and best and t.speedup.ratio >= NEARLY * best.ratio][:RIVALS]
        deployment = self.deployment(trial)
        limit_s = self._share_of_time(COMPARISON_SHARE / len(near))
        found = [(self.compared(deployment, self.deployment(t), limit_s), t) for t in near]
        comparison, rival = min(found, key=lambda pair: pair[0].low)
        speedup = Speedup(comparison.ratio, comparison.low, comparison.high)
        memory, original_memory = comparison.candidate_peak_memory_bytes, comparison.original_peak_memory_bytes
        return Winner(
            with_latency(trial, comparison.candidate, speedup, memory),
            with_latency(rival, comparison.original, Speedup(1.0, 1.0, 1.0), original_memory),
            certificate,
            comparison,
        )

    def _flaw(self, winner: Winner) -> str:
        """Why a certified candidate is no winner; empty where it is one."""
        trial, comparison = winner.trial, winner.comparison
        named = f"{trial.recipe_text} on {trial.backend_text}"
        if missed := self.ranking.misses(trial):
            return f"{named} missed the budget when it was measured at length: {'; '.join(missed)}"
        if self.ranking.misses(self.original):
            return ""
        if self.prepared.request.budget.objective in ("latency", "throughput"):
            better = comparison.faster
        else:
            better = comparison.not_slower
        if better and self.ranking.cost(trial) >= self.ranking.cost(winner.original):
            return f"{named} needed no less {self.prepared.request.budget.objective} than the original at length"
        if better:
            return ""
        return (
            f"{named} was not faster than the original on {winner.original.backend_text}: "
            f"{comparison.ratio:.3f}x ({comparison.low:.3f} to {comparison.high:.3f})"
        )

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
        limit_s = self._share_of_time(SOURCE_SHARE)
        try:
            return self.compared(self.deployment(chosen), self.deployment(source), limit_s)
        except BackendError:
            return None  # It is a figure beside the answer: without it the answer stands.

    def _share_of_time(self, share: float) -> float:
        return share * self.prepared.clock.left_s()

    def compared(self, candidate: Deployment, original: Deployment, time_limit_s: float) -> Comparison:
        """Both in turn, processes started anew until the interval is narrow or the time is spent."""
        limit_s = min(COMPARISON_LIMIT_S, max(SHORTEST_COMPARISON_S, time_limit_s))
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
        batch_size, threads = prepared.request.budget.batch_size, prepared.request.thread_count
        outputs = golden_outputs(deployment, inputs, batch_size, threads)
        manifest = Manifest(
            task=prepared.request.task.name,
            signature=prepared.signature,
            backend=candidate.backend.name,
            options=candidate.backend.options(),
            recipe=trial.recipe,
            recipe_text=trial.recipe_text,
            threads=threads,
            batch_size=batch_size,
            budget=prepared.request.budget,
            measurements=point_json(trial),
            certificate=certificate.to_json() if certificate else None,
            hardware=hardware(),
            version=__version__,
        )
        outputs = {name: outputs[name] for name in prepared.signature.output_names}
        return Artifact.write(path, manifest, network_files(deployment.network), (inputs, outputs))


def conclude(
    prepared: Prepared,
    ranking: Ranking,
    candidates: Mapping[str, Candidate],
    trials: Sequence[Trial],
    finals: Finals,
) -> Result:
    """Certify, measure, write OUT/best, OUT/frontier, result.json and the report."""
    ending = Ending(prepared, ranking, candidates, trials, finals)
    winner, reason = ending.winner()
    if winner:
        findings = Findings(
            "improved", "", winner.trial, winner.original, (), winner.comparison, None, winner.certificate
        )
    else:
        findings = Findings.without_winner(ending.original, ranking, trials, reason)
    findings = replace(findings, over_source=ending.over_source(findings.best))
    root = prepared.folder.root
    best = None
    if findings.status == "infeasible":
        shutil.rmtree(root / "best", ignore_errors=True)
    else:
        best = ending.write(root / "best", findings.best, findings.certificate)
    family = write_family(ending, root / "frontier", {f.key: f.certificate for f in finals.seen if f.certificate})
    on_frontier = {t.key for t in ranking.frontier(trials)}
    marked = [replace(t, frontier=t.key in on_frontier) for t in trials]
    prepared.folder.rewrite([*marked, *(t for t in prepared.finished if t.key not in {m.key for m in marked})])
    values = result_json(prepared, findings, marked, ending.originals, finals)
    write_json(prepared.folder.result, values)
    return Result(findings.status, findings.reason, best, family, tuple(marked), write_report(root), values)


def write_family(ending: Ending, folder: Path, certificates: Mapping[str, Certificate]) -> tuple[Artifact, ...]:
    """OUT/frontier/NN, fastest first; a member that does not run any more is left out."""
    family: list[Artifact] = []
    with replacing_folder(folder) as part:
        for trial in ending.family():
            name = f"{len(family) + 1:02d}"
            with suppress(BackendError, TechniqueError, ExportError, TimeUpError):
                written = ending.write(part / name, trial, certificates.get(trial.key))
                family.append(Artifact(folder / name, written.manifest))
    return tuple(family)
