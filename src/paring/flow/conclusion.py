"""The end of a run: certify, measure beside the fastest original, and write what was found."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from paring import __version__
from paring.artifact import Artifact, Manifest
from paring.artifact.files import replacing_folder, write_json
from paring.backends.isolated import Deployment
from paring.certify import Certificate
from paring.errors import BackendError, ExportError, TechniqueError, TimeUpError
from paring.flow.answer import Findings, point_json, result_json
from paring.flow.choosing import Choosing, Winner
from paring.flow.finalists import Finals
from paring.flow.originals import Originals
from paring.flow.prepare import Prepared
from paring.flow.reasons import why_none
from paring.flow.result import Result
from paring.flow.workload import golden_outputs
from paring.measure.compare import Comparison, compare
from paring.measure.hardware import hardware
from paring.measure.size import network_files
from paring.report import write_report
from paring.tune import Candidate, Ranking, Trial
from paring.tune.playoff import last_standing

GOLDEN_ROWS = 16
FAMILY = 8
FAMILY_DROPS = 3.0
"""Members of the family lose at most so many times what the budget allows: the server may step down that far."""

COMPARISON_LIMIT_S = 20.0
SHORTEST_COMPARISON_S = 2.0
SOURCE_SHARE = 0.25
"""Of the time that is left, for a figure beside the answer."""


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
        self.originals = Originals.of(trials, ranking, prepared.request.time_limit_s)
        self._time_up = prepared.clock.spent_s >= prepared.clock.search_limit_s

    def winner(self) -> Winner | str:
        """What to return instead of the original; the reason where nothing is both certified and better."""
        trials = {trial.key: trial for trial in self.trials if trial.key in self.candidates}
        chosen = Choosing(
            self.ranking, self.originals, trials, self.candidates, self.finals, self.met, self.prepared.clock
        ).winner()
        budget, not_tried = self.prepared.request.budget, self.prepared.not_tried
        return chosen or why_none(self.trials, budget, not_tried, time_up=self._time_up)

    def met(self, one: Trial, other: Trial, time_limit_s: float) -> Comparison:
        """Both measured in turn, processes started anew until the interval is narrow or the time is spent."""
        limit_s = min(COMPARISON_LIMIT_S, max(SHORTEST_COMPARISON_S, time_limit_s))
        workload, seed = self.prepared.workload, self.prepared.request.seed
        return compare(self.deployment(one), self.deployment(other), workload, time_limit_s=limit_s, seed=seed)

    def deployment(self, trial: Trial) -> Deployment:
        """A trial's network in its backend."""
        return self.finals.deployment(self.candidates[trial.key])

    def over_source(self, chosen: Trial) -> Comparison | None:
        """Against the model as it came: torch as it is, or for a graph the first backend."""
        source = self.originals.source
        if source.key == chosen.key:
            return None
        try:
            return self.met(chosen, source, SOURCE_SHARE * self.prepared.clock.left_s())
        except BackendError:
            return None  # It is a figure beside the answer: without it the answer stands.

    def kept(self) -> Trial:
        """The original to return where nothing wins: those that may be the fastest have met at length."""
        return last_standing(self.originals.to_keep(self.ranking), self.met, self.prepared.clock.left_s)

    def family(self) -> list[Trial]:
        """The frontier within a few times the budget, fastest first; the original on its fastest backend ends it."""
        limit = FAMILY_DROPS * self.prepared.request.budget.max_drop
        pool = [t for t in self.trials if t.key in self.candidates and (t.drop or 0.0) <= limit]
        frontier = [t for t in self.ranking.frontier(pool) if t.recipe][: FAMILY - 1]
        return [*frontier, self.originals.fastest]

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
    chosen = ending.winner()
    if isinstance(chosen, Winner):
        findings = Findings.won(chosen)
    else:
        findings = Findings.without_winner(ending.kept(), ranking, trials, chosen)
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
    values = result_json(prepared, findings, marked, ending.originals.timed, finals)
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
