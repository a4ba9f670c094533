"""Reading an output folder, and writing the page into it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from paring.errors import OutputError
from paring.report.fields import Fields
from paring.report.records import Answer, Trial

STATUSES = ("improved", "kept-original", "infeasible")


def read_answer(folder: Path) -> Answer:
    """The result of a finished run. Raises OutputError where there is none."""
    path = folder / "result.json"
    if not path.is_file():
        raise OutputError(
            f"{folder} has no result.json: give the folder of a finished run, or finish it with `paring optimize`."
        )
    answer = Answer.of(_parsed(path.read_text("utf-8"), str(path)))
    if answer.status not in STATUSES:
        raise OutputError(f"{path} has the status {answer.status!r}, not one of {', '.join(STATUSES)}: run it again.")
    return answer


def read_trials(folder: Path) -> tuple[Trial, ...]:
    """Every trial, in the order in which they ended; none where nothing was tried.

    A run that was killed may have cut its last line short: a last line without its line end that does not parse is
    left out, as resuming the run would. Damage anywhere else raises OutputError.
    """
    path = folder / "trials" / "trials.jsonl"
    if not path.is_file():
        return ()
    lines = path.read_text("utf-8").split("\n")
    trials = []
    for number, line in enumerate(lines, start=1):
        cut_short = number == len(lines)
        if line.strip() and not (cut_short and not _parses(line)):
            trials.append(Trial.of(Fields(_parsed(line, f"{path}, line {number}"))))
    return tuple(trials)


def write_text(path: Path, text: str) -> Path:
    """Write under a temporary name, then rename: a crash leaves the old file or the new one. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} can't be written ({error.strerror}): free space or choose another folder."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return path


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise OutputError(f"{where} is damaged ({error}): run `paring optimize` again to write it anew.") from error
    if not isinstance(value, dict):
        raise OutputError(f"{where} holds a {type(value).__name__} and not an object: run `paring optimize` again.")
    return value
