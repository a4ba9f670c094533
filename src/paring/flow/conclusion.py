"""The end of a run: certify, measure beside the fastest original, and write what was found."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
from paring.flow.duels import Duels, in_one_series
from paring.flow.finalists import Finals
from paring.flow.originals import Originals
from paring.flow.prepare import Prepared
from paring.flow.reasons import NOT_COME_TO, WithoutWinner
from paring.flow.result import Result
from paring.flow.workload import golden_outputs
from paring.flow.zeros import zeros_told
from paring.measure.compare import Comparison, compare
from paring.measure.hardware import hardware
from paring.measure.size import network_files
from paring.report import write_report
from paring.tune import Candidate, Ranking, Speedup, Trial
from paring.tune.playoff import last_standing
from paring.tune.proposing import any_fits
from paring.types import Arrays

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
        self.duels = Duels()
        self._golden: dict[str, Arrays] = {}

    def winner(self) -> Winner | str:
        """What to return instead of the original; the reason where nothing is both certified and better."""
        trials = {trial.key: trial for trial in self.trials if trial.key in self.candidates}
        chosen = Choosing(
            self.ranking, self.originals, trials, self.candidates, self.finals, self.met, self.prepared.clock
        ).winner()
        return chosen if isinstance(chosen, Winner) else self._without_winner().reason(chosen)

    def _without_winner(self) -> WithoutWinner:
        request, not_tried = self.prepared.request, self.prepared.not_tried
        fitting = any_fits(
            request.all_techniques(),
            request.recipes,
            self.prepared.usable_backends(),
            request.budget.wants,
            graph_only=isinstance(request.task.model, Path),
            train_data=request.task.train is not None,
        )
        time_up = NOT_COME_TO in not_tried
        return WithoutWinner(self.ranking, self.trials, self.originals.timed, not_tried, fitting, time_up)

    def met(self, one: Trial, other: Trial, time_limit_s: float, deadline_s: float = math.inf) -> Comparison:
        """Both measured in turn, processes started anew until the interval is narrow or the time is spent.

        Raises TimeUpError where that is not done at the end of the run or at `deadline_s`, a `time.monotonic()`.
        """
        limit_s = min(COMPARISON_LIMIT_S, max(SHORTEST_COMPARISON_S, time_limit_s))
        workload, seed = self.prepared.workload, self.prepared.request.seed
        first, second = self.deployment(one, deadline_s), self.deployment(other, deadline_s)
        found = compare(first, second, workload, time_limit_s=limit_s, seed=seed)
        self.duels.add(one, other, found)
        return found

    def deployment(self, trial: Trial, deadline_s: float = math.inf) -> Deployment:
        """A trial's network in its backend, until the end of the run or until `deadline_s`."""
        found = self.finals.deployment(self.candidates[trial.key])
        return replace(found, deadline_s=min(found.deadline_s, deadline_s))

    def over_source(self, chosen: Trial) -> Speedup | None:
        """Over the model as it came: torch as it is, or for a graph the first backend. Who met need not again."""
        source = self.originals.source
        if source.key == chosen.key:
            return None
        if met := self.duels.speedup(chosen, source):
            return met
        with suppress(BackendError), self.spared("a comparison of the result with the model as it came"):
            clock = self.prepared.clock
            self.met(chosen, source, SOURCE_SHARE * clock.left_s(), clock.writing_deadline_s)
            return self.duels.speedup(chosen, source)
        return None  # It is a figure beside the answer: without it the answer stands.

    @contextmanager
    def spared(self, what: str) -> Iterator[None]:
        """Around a part of the answer that is left out, and told, where the time for it ends first."""
        try:
            yield
        except TimeUpError as error:
            self.prepared.not_tried[what] = str(error)

    def kept(self) -> Trial:
        """The original to return where nothing wins: those that may be the fastest have met at length."""
        near, left_s = self.originals.to_keep(self.ranking), self.prepared.clock.conclusion_left_s
        return self.duels.kept(last_standing(near, self.met, left_s))

    def family(self) -> list[Trial]:
        """The frontier within a few times the budget, fastest first; the original on its fastest backend ends it."""
        limit = FAMILY_DROPS * self.prepared.request.budget.max_drop
        pool = [t for t in self.trials if t.key in self.candidates and (t.drop or 0.0) <= limit]
        frontier = [t for t in self.ranking.frontier(pool) if t.recipe][: FAMILY - 1]
        return [*frontier, self.originals.fastest]

    def write(
        self, path: Path, trial: Trial, certificate: Certificate | None, deadline_s: float = math.inf
    ) -> Artifact:
        """An artifact of a trial (with the figures that it holds) and golden rows from this machine.

        Raises TimeUpError where its network has not answered them at `deadline_s`, a `time.monotonic()`.
        """
        candidate, prepared = self.candidates[trial.key], self.prepared
        deployment = replace(self.deployment(trial), deadline_s=deadline_s)
        golden = self._golden_rows(trial, deployment)
        manifest = Manifest(
            task=prepared.request.task.name,
            signature=prepared.signature,
            backend=candidate.backend.name,
            options=candidate.backend.options(),
            recipe=trial.recipe,
            recipe_text=trial.recipe_text,
            threads=prepared.request.thread_count,
            batch_size=prepared.request.budget.batch_size,
            budget=prepared.request.budget,
            measurements=point_json(trial),
            certificate=certificate.to_json() if certificate else None,
            hardware=hardware(),
            version=__version__,
        )
        return Artifact.write(path, manifest, network_files(deployment.network), golden)

    def _golden_rows(self, trial: Trial, deployment: Deployment) -> tuple[Arrays, Arrays]:
        """Some rows and the answers to them, which are asked for once: the result is mostly one of the family too."""
        prepared, budget = self.prepared, self.prepared.request.budget
        inputs, _ = prepared.splits.selection.take(0, min(GOLDEN_ROWS, len(prepared.splits.selection)))
        if trial.key not in self._golden:
            outputs = golden_outputs(deployment, inputs, budget.batch_size, prepared.request.thread_count)
            self._golden[trial.key] = {name: outputs[name] for name in prepared.signature.output_names}
        return inputs, self._golden[trial.key]


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
    zeros = zeros_told(trials, candidates, [findings.best, *ending.family()])
    findings = replace(findings, over_source=ending.over_source(findings.best), zeros=zeros)
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
    originals = in_one_series(ending.originals, findings.baseline, ending.duels)
    values = result_json(prepared, findings, marked, originals, finals)
    write_json(prepared.folder.result, values)
    return Result(findings.status, findings.reason, best, family, tuple(marked), write_report(root), values)


def write_family(ending: Ending, folder: Path, certificates: Mapping[str, Certificate]) -> tuple[Artifact, ...]:
    """OUT/frontier/NN, fastest first; a member that does not run any more, or has no time to, is left out."""
    *members, original = ending.family()
    family: list[Artifact] = []
    with replacing_folder(folder) as part:
        for trial in (*members, original):
            name = f"{len(family) + 1:02d}"
            # The original is never late: it is what the others are verified against.
            deadline_s = math.inf if trial is original else ending.prepared.clock.writing_deadline_s
            with suppress(BackendError, TechniqueError, ExportError), ending.spared(f"{trial} in frontier/"):
                written = ending.write(part / name, trial, certificates.get(trial.key), deadline_s)
                family.append(Artifact(folder / name, written.manifest))
    return tuple(family)
