"""optimize: the loop that asks the search, runs trials, certifies finalists and writes the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from paring.backends.base import Backend
from paring.errors import OutputError, TimeUpError
from paring.flow.clock import RunClock
from paring.flow.conclusion import conclude
from paring.flow.finalists import Finals
from paring.flow.folder import RunFolder
from paring.flow.ledger import EARLY_SHARE
from paring.flow.originals import timed_originals
from paring.flow.prepare import Prepared, begin, prepare
from paring.flow.reasons import NOT_COME_TO
from paring.flow.request import Executor, Request, resolved
from paring.flow.result import Result
from paring.flow.trials import TrialRunner
from paring.report.progress import Progress, Silent, TerminalProgress
from paring.techniques.base import Recipe, Technique
from paring.tune import Candidate, Scene, Search, Trial
from paring.tune.playoff import MOST_CONTENDERS
from paring.types import Budget, Task

EARLY_GAIN = 0.9
"""An early certificate is spent on a candidate that costs at most this share of the original."""


def optimize(
    task: Task,
    budget: Budget | None = None,
    *,
    out: Path | str,
    time_limit_s: float = 1200,
    techniques: Sequence[Technique | type[Technique] | str | Recipe] | None = None,
    backends: Sequence[Backend | type[Backend] | str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    resume: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Search for the best network within the budget, certify it, and write it to `out`.

    Returns what was found; `result.values` is result.json. With `resume` a run that was cut short goes on; without it
    what an earlier run left in `out` is discarded, and its looks at the certification rows are told beside the next
    certificate. `techniques` and `backends` (None: all that are installed) take names and classes, whose variants are
    tried, and objects, which are tried as they are: a training that is an object has its own number of epochs, or as
    many of them as the time limit holds. A tuple of objects among the techniques is a whole recipe, tried as it is.
    `executor` runs the trials of a round, as the built-in `map` does; threads are safe and no faster: trials take
    turns, since two at a time would disturb each other's measurement. Raises InputError (and its kinds) for what can't
    be used, BackendError where no runtime works here.
    """
    return run(
        Request(
            task=task,
            budget=Budget() if budget is None else budget,
            out=Path(out) if isinstance(out, str | os.PathLike) else out,
            time_limit_s=time_limit_s,
            techniques=resolved("technique", techniques),
            backends=resolved("backend", backends),
            threads=threads,
            seed=seed,
            resume=resume,
            executor=map if executor is None else executor,
            progress=progress,
        )
    )


def run(request: Request) -> Result:
    """Carry out a request."""
    clock = RunClock(request.time_limit_s)
    folder = RunFolder(request.out)
    with folder.locked(), TerminalProgress(clock.left_s) if request.progress else nullcontext(Silent()) as told:
        told.stage("preparing")
        begun = begin(request, folder)
        with resumable(folder, told):
            prepared = prepare(begun, clock, told)
            with prepared.runner() as runner:
                hunt = Hunt(prepared, runner, told)
                hunt.follow(Search(hunt.scene()))
            told.stage("concluding")
            result = conclude(prepared, hunt.ranking, hunt.candidates, hunt.trials, hunt.finals)
            prepared.networks.keep(hunt.kept())
            return result


@contextmanager
def resumable(folder: RunFolder, told: Progress) -> Iterator[None]:
    """Around a run that has begun: where it is stopped, what is saved and how it goes on is said."""
    try:
        yield
    except (KeyboardInterrupt, OutputError):
        what = "what had finished" if folder.log.file.is_file() else "what was prepared"
        told.note(f"stopped: {what} is saved in {folder.root}; without --fresh the same command goes on from there.")
        raise


class Hunt:
    """One search as it runs: candidates are asked for, tried or remembered, told, and kept or forgotten on disk."""

    def __init__(self, prepared: Prepared, runner: TrialRunner, told: Progress) -> None:
        self.prepared = prepared
        self.runner = runner
        self.clock = prepared.clock
        self.told = told
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
            if asked[0].stage != self.stage:
                self.stage = asked[0].stage
                self.told.stage(self.stage)
            self.candidates.update((candidate.key, candidate) for candidate in asked)
            search.tell(asked, self._round(asked))
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
        best = self.ranking.best(self.trials)
        if best is None or best.speedup is None:
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
