"""The output folder of a run: one run at a time, every trial appended as it ends, and nothing of anybody else's."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paring.artifact import foreign_file
from paring.artifact.files import JsonLines, read_json, remove_parts, write_json
from paring.errors import OutputError, writing
from paring.flow.identity import changes
from paring.flow.ledger import Ledger
from paring.flow.pace import Pace
from paring.tune import Trial

LOCK = ".lock"
"""Held by the run that is in the folder; that it lies in trials/ also tells that paring made what stands around it."""

FOR_PEOPLE = ("best", "frontier", "result.json", "report.html", "sensitivity.json", "sensitivity.html")
OF_RUN = ("trials.jsonl", "looks", "modules", "networks", "machine.json", "run.json")
"""Below trials/. What the run was asked goes last, so that what is left of a run can always be told from another's."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes.

    OUT/result.json, report.html, best/, frontier/NN/ are for people; OUT/trials/ holds what a killed run needs to go
    on: trials.jsonl, run.json (what the run was asked), data/ (the two splits, written anew by each run), modules/ and
    networks/ (what trials made, by the digest of their recipe), machine.json (what was measured of it), looks/ (scores
    of the certification split) and finalists.json (what was seen of it, and what that has cost).
    """

    root: Path

    @property
    def trials(self) -> Path:
        """Everything that a resumed run needs."""
        return self.root / "trials"

    @property
    def log(self) -> JsonLines:
        """One trial a line."""
        return JsonLines(self.trials / "trials.jsonl")

    @property
    def ledger_file(self) -> Path:
        """The looks at the certification rows, and what they cost."""
        return self.trials / "finalists.json"

    @property
    def result(self) -> Path:
        """The answer."""
        return self.root / "result.json"

    @property
    def sensitivity(self) -> Path:
        """What a survey found."""
        return self.root / "sensitivity.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder.

        Raises OutputError where another run holds it, it can't be written, or paring did not make what lies where the
        run would write.
        """
        used, new = (self.trials / LOCK).is_file(), not self.root.exists()
        if not used:
            self._refuse(self._in_the_way())
        with writing(self.root):
            self.trials.mkdir(parents=True, exist_ok=True)
            stream = (self.trials / LOCK).open("w")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"{self.root} is in use by another run: wait for it, or choose another --out."
                ) from error
            try:
                self._refuse(self._added())
                if used:
                    self._sweep()
                yield
            finally:  # Closing is not enough: processes that were forked meanwhile hold the descriptor too.
                if not used:
                    self._undo(root=new)
                fcntl.flock(stream, fcntl.LOCK_UN)

    def _undo(self, *, root: bool) -> None:
        """Remove the folder of a run that was refused before it began, if there is nothing else in it."""
        if {path.name for path in self.trials.iterdir()} <= {LOCK, "data"}:
            shutil.rmtree(self.trials, ignore_errors=True)
            if root and not any(self.root.iterdir()):
                self.root.rmdir()

    def _sweep(self) -> None:
        """Remove what a run that was killed had half made."""
        remove_parts(self.root, "best|frontier")
        for name in ("modules", "networks"):
            remove_parts(self.trials / name, r"[\w-]+")

    def _in_the_way(self) -> Iterator[Path]:
        """What stands where a run would write, in a folder that no run has used."""
        yield from (path for name in FOR_PEOPLE if (path := self.root / name).exists())
        if self.trials.exists() and any(self.trials.iterdir()):
            yield self.trials

    def _added(self) -> Iterator[Path]:
        """What was put into the artifacts of a run, which the next ones will replace."""
        family = self.root / "frontier"
        members = sorted(family.iterdir()) if family.is_dir() else [family]
        for artifact in (self.root / "best", *members):
            if artifact.exists() and (found := foreign_file(artifact)):
                yield found

    def _refuse(self, foreign: Iterator[Path]) -> None:
        with writing(self.root):
            found = next(foreign, None)
        if found is not None:
            raise OutputError(
                f"{found} stands where this run would write, and no run in {self.root} made it: "
                "choose another --out, or move it away."
            )

    def begin(self, identity: dict[str, Any], *, fresh: bool) -> list[Trial]:
        """`resume`, or where the run is to be `fresh`, a new one in place of what is there."""
        if fresh:
            self.clear()
        return self.resume(identity)

    def resume(self, identity: dict[str, Any]) -> list[Trial]:
        """The finished trials of an earlier run of the same question; [] for a new run.

        A run of another question that has measured nothing gives way. Raises OutputError where one has, naming what
        differs.
        """
        file = self.trials / "run.json"
        if file.is_file() and (changed := changes(read_json(file), identity)):
            if self.log.read() or self.result.exists():
                raise OutputError(
                    f"{self.root} holds a run with another {', '.join(changed)}: choose another --out, "
                    "or pass --fresh to discard that run."
                )
            self.clear()
        if not file.is_file():
            write_json(file, identity)
        try:
            return [Trial.from_json(row) for row in self.log.read()]
        except TypeError as error:
            raise OutputError(
                f"{self.log.file} holds a line that is no trial ({error}): pass --fresh to begin anew."
            ) from error

    def pace(self, measured: Pace) -> Pace:
        """What answers cost: as measured now, or by the run that is resumed, which must decide as it did."""
        file = self.trials / "looks" / "pace.json"
        if not file.is_file():
            write_json(file, asdict(measured))
        return Pace(**read_json(file))

    def measured(self, what: str, measure: Callable[[], int]) -> int:
        """What the machine is: as measured now, or by the run that is resumed, which must come to the same sizes."""
        file = self.trials / "machine.json"
        known = read_json(file) if file.is_file() else {}
        if what not in known:
            known[what] = measure()
            write_json(file, known)
        return int(known[what])

    def ledger_at(self, rows: str, *, fresh: bool) -> Ledger:
        """What looks at rows of that digest have cost here; a `fresh` run has taken none of them itself."""
        ledger = Ledger.read(self.ledger_file).at(rows)
        return ledger.without_looks() if fresh else ledger

    def clear(self) -> None:
        """Discard what an earlier run left, but for the count of its looks at the certification rows."""
        if self.ledger_file.is_file():
            Ledger.read(self.ledger_file).without_looks().write(self.ledger_file)
        for path in (*(self.root / name for name in FOR_PEOPLE), *(self.trials / name for name in OF_RUN)):
            with writing(path):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def rewrite(self, trials: Sequence[Trial]) -> None:
        """Replace the log by the same trials with what is known of them at the end."""
        self.log.rewrite(trial.to_json() for trial in trials)

    def append(self, trial: Trial) -> None:
        """Add a finished trial; it is on disk when this returns."""
        self.log.append(trial.to_json())
