"""The output folder of a run: one run at a time, every trial appended as it ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.artifact.files import unwritable, write_json, write_text
from paring.errors import OutputError
from paring.tune import Trial


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes.

    OUT/result.json, report.html, best/, frontier/NN/ are for people; OUT/trials/ holds what a killed run needs to go
    on: trials.jsonl, run.json (what the run was asked), data/ (the two splits), modules/ and networks/ (what trials
    made, by the digest of their recipe).
    """

    root: Path

    @property
    def trials(self) -> Path:
        """Everything that a resumed run needs."""
        return self.root / "trials"

    @property
    def log(self) -> Path:
        """One trial a line."""
        return self.trials / "trials.jsonl"

    @property
    def result(self) -> Path:
        """The answer."""
        return self.root / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises OutputError where another run holds it or it can't be written."""
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            stream = (self.trials / ".lock").open("w")
        except OSError as error:
            raise unwritable(self.root, error) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"{self.root} is in use by another run: wait for it, or choose another --out."
                ) from error
            yield

    def resume(self, identity: dict[str, Any]) -> list[Trial]:
        """The finished trials of an earlier run of the same question; [] for a new run.

        Raises OutputError where the folder holds a run of another question.
        """
        file = self.trials / "run.json"
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if earlier is not None and earlier != identity:
            changed = sorted(k for k in identity if identity[k] != earlier.get(k)) or sorted(
                set(earlier) - set(identity)
            )
            raise OutputError(
                f"{self.root} holds a run with another {', '.join(changed)}: choose another --out, "
                "or pass --fresh to discard that run."
            )
        if earlier is None:
            write_json(file, identity)
        return list(self._logged())

    def row_time(self, measured_s: float) -> float:
        """Seconds that a row takes: as measured now, or by the run that is resumed, which must decide as it did."""
        file = self.trials / "looks" / "row_time.json"
        if not file.is_file():
            write_json(file, measured_s)
        return float(json.loads(file.read_text(encoding="utf-8")))

    def clear(self) -> None:
        """Discard what an earlier run left."""
        for name in ("trials.jsonl", "run.json", "data", "modules", "networks", "finalists.json", "looks"):
            path = self.trials / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name in ("best", "frontier"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in ("result.json", "report.html"):
            (self.root / name).unlink(missing_ok=True)

    def _logged(self) -> Iterator[Trial]:
        """Trials on disk. A run that was killed while it wrote leaves half a line at the end, which never happened."""
        if not self.log.is_file():
            return
        whole = self.log.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with self.log.open("r+b") as stream:
                stream.truncate(end)
        for line in whole[:end].splitlines():
            yield Trial.from_json(json.loads(line))

    def rewrite(self, trials: Sequence[Trial]) -> None:
        """Replace the log by the same trials with what is known of them at the end."""
        write_text(self.log, "".join(json.dumps(trial.to_json()) + "\n" for trial in trials))

    def append(self, trial: Trial) -> None:
        """Add a finished trial; it is on disk when this returns."""
        try:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(trial.to_json()) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise unwritable(self.log, error) from error
