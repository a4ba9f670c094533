"""One search as it runs, from its first question to its last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from paring.errors import TimeUpError
from paring.flow.finalists import Finals
from paring.flow.ledger import EARLY_SHARE
from paring.flow.originals import timed_originals
from paring.flow.prepare import Prepared
from paring.flow.reasons import NOT_COME_TO
from paring.flow.trials import TrialRunner
from paring.report.progress import Progress
from paring.tune import Candidate, Scene, Search, Trial
from paring.tune.playoff import MOST_CONTENDERS

EARLY_GAIN = 0.9
"""An early certificate is spent on a candidate that costs at most this share of the original."""


class Hunt:
    """One search as it runs: candidates are asked for, tried or remembered, told, and kept or forgotten on disk.

    One that `certifies` spends a look at the certification rows on the way.
    """

    def __init__(self, prepared: Prepared, runner: TrialRunner, told: Progress, *, certifies: bool = True) -> None:
        self.prepared = prepared
        self.runner = runner
        self.clock = prepared.clock
        self.told = told
        self.certifies = certifies
        self.finals = Finals(prepared, told.note)
        self.candidates: dict[str, Candidate] = {}
        self.trials: list[Trial] = []
        self.stage = ""
        self.known = {trial.key: trial for trial in prepared.finished}
        self.unreplayed = {trial.key: trial.search_limit_s for trial in prepared.finished}
        self.ranking = prepared.ranking()

    def scene(self) -> Scene:
        """What the search is told of the run."""
        request = self.prepared.request
        model = request.task.model
        return Scene(
            budget=request.budget,
            ranking=self.ranking,
            job=self.prepared.job,
            model=None if isinstance(model, Path) else model,
            graph=self.prepared.networks.original_graph(),
            techniques=request.all_techniques(),
            recipes=request.recipes,
            backends=self.prepared.usable_backends(),
            threads=request.thread_count,
            time_left_s=self.clock.search_left_s,
            precisions={found.name: found.precisions for found in self.prepared.probes if found.works},
            not_tried=self.prepared.not_tried,
        )

    def follow(self, search: Search) -> None:
        """Until the search is over or the time is up; a trial that the time cuts short is none, and that is told."""
        with suppress(TimeUpError):
            if self._rounds(search):
                return
        self.prepared.not_tried[NOT_COME_TO] = (
            f"the time limit ended in its stage {self.stage!r}, with {len(self.trials)} tried: allow more time."
        )

    def _rounds(self, search: Search) -> bool:
        """Whether the search came to its end before the time did."""
        while self.clock.search_left_s() > 0:
            asked = search.ask()
            if not asked:
                return True
            if asked[0].phase != self.stage:
                self.stage = asked[0].phase
                self.told.stage(self.stage)
            self.candidates.update((candidate.key, candidate) for candidate in asked)
            search.tell(asked, self._round(asked))
            if self.certifies:
                self._certify_early()
            self.prepared.networks.forget(self.candidates.values(), self.kept())
        return False

    def _round(self, asked: Sequence[Candidate]) -> list[Trial]:
        """The trials of a round, fewer where the time ends first; those of an earlier run are not repeated."""
        numbers = {candidate.key: len(self.trials) + i for i, candidate in enumerate(asked)}
        done: list[Trial] = []
        for trial in self.prepared.request.executor(self._tried(numbers), asked):
            if trial.key not in self.known:
                limit_s = self.clock.search_limit_s
                trial = replace(trial, elapsed_s=round(self.clock.spent_s, 3), search_limit_s=limit_s)
                self.prepared.folder.append(trial)
                self.known[trial.key] = trial
            self._tell_clock(trial)
            done.append(trial)
            self.trials.append(trial)
            self.told.trial(len(self.trials), self._best_in_words())
            if self.clock.search_left_s() <= 0:
                break
        return done

    def _tell_clock(self, trial: Trial) -> None:
        """What is decided next was decided before where an earlier run tried what followed: under that run's limit."""
        replayed = self.unreplayed.pop(trial.key, None) is not None
        limit_s = next(iter(self.unreplayed.values()), None) if replayed else None
        self.clock.trial_ended(trial.elapsed_s, limit_s)

    def _tried(self, numbers: dict[str, int]) -> Callable[[Candidate], Trial]:
        def tried(candidate: Candidate) -> Trial:
            self.told.say(str(candidate))
            try:
                return self.known.get(candidate.key) or self.runner.run(candidate, numbers[candidate.key])
            except TimeUpError as error:
                self.prepared.not_tried[str(candidate)] = str(error)
                raise

        return tried

    def _best_in_words(self) -> str:
        best = self.ranking.best(self.trials) if self.certifies else None
        if best is None or best.speedup is None:  # What is not to be certified is no answer yet, whatever it gains.
            return ""
        return f"{best.speedup.ratio:.2f}x, drop {best.drop or 0.0:.4f}: {best}"

    def _certify_early(self) -> None:
        """Spend one look as soon as something is clearly better, so that a run that is cut short has an answer."""
        originals = timed_originals(self.trials)
        best = self.ranking.best([t for t in self.trials if t.recipe and self.ranking.may_win(t, originals)])
        if self.finals.seen or best is None or not self.clock.early_looks_fit():
            return
        if self.ranking.cost(best) > EARLY_GAIN * min(map(self.ranking.cost, originals), default=0.0):
            return
        self.finals.look(self.candidates[best.key], EARLY_SHARE)

    def kept(self) -> list[Candidate]:
        """Those of the frontier, finalists, who may become one and who waits: networks of others can be built again."""
        hopeful = sorted((t for t in self.trials if t.recipe and self.ranking.hopeful(t)), key=self.ranking.cost)
        near = [*self.ranking.frontier(self.trials), *hopeful[:MOST_CONTENDERS]]
        kept = {trial.key for trial in near} | {f.key for f in self.finals.seen}
        beaten = {trial.key for trial in self.trials} - kept
        return [candidate for key, candidate in self.candidates.items() if key not in beaten]
