"""optimize: the loop that asks the search, runs trials, certifies finalists and writes the answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from paring.backends.base import Backend
from paring.errors import OutputError
from paring.flow.clock import RunClock
from paring.flow.conclusion import conclude
from paring.flow.folder import RunFolder
from paring.flow.hunt import Hunt
from paring.flow.prepare import Prepared, begin, prepare
from paring.flow.reasons import check_not_all_refused
from paring.flow.request import Executor, Request, resolved
from paring.flow.result import Result
from paring.report.progress import Progress, Silent, TerminalProgress
from paring.techniques.base import Recipe, Technique
from paring.tune import Search
from paring.types import Budget, Task


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
    be used, also where every technique with given settings refuses the network; BackendError where no runtime works.
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
    with prepared_run(request) as (prepared, told):
        with prepared.runner() as runner:
            hunt = Hunt(prepared, runner, told)
            hunt.follow(Search(hunt.scene()))
        if request.gives_settings:
            check_not_all_refused(hunt.trials, prepared.not_tried, request.asked)
        told.stage("concluding")
        result = conclude(prepared, hunt.ranking, hunt.candidates, hunt.trials, hunt.finals)
        prepared.networks.keep(hunt.kept())
        return result


@contextmanager
def prepared_run(request: Request) -> Iterator[tuple[Prepared, Progress]]:
    """A run that is ready to search, in its folder, and where it tells how far it is."""
    clock = RunClock(request.time_limit_s)
    folder = RunFolder(request.out)
    with folder.locked(), TerminalProgress(clock.left_s) if request.progress else nullcontext(Silent()) as told:
        told.stage("preparing")
        begun = begin(request, folder)
        with resumable(folder, told):
            yield prepare(begun, clock, told), told


@contextmanager
def resumable(folder: RunFolder, told: Progress) -> Iterator[None]:
    """Around a run that has begun: where it is stopped, what is saved and how it goes on is said."""
    try:
        yield
    except (KeyboardInterrupt, OutputError):
        what = "what had finished" if folder.log.file.is_file() else "what was prepared"
        told.note(f"stopped: {what} is saved in {folder.root}; without --fresh the same command goes on from there.")
        raise
