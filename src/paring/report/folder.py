"""Reading the output folder of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paring.artifact.files import JsonLines, read_json
from paring.errors import OutputError
from paring.report.fields import Fields
from paring.report.points import TrialRow
from paring.report.records import Answer

STATUSES = ("improved", "kept-original", "infeasible")


def read_answer(folder: Path) -> Answer:
    """The result of a finished run. Raises OutputError where there is none."""
    path = folder / "result.json"
    if not path.is_file():
        raise OutputError(
            f"{folder} has no result.json: give the folder of a finished run, or finish it with `paring optimize`."
        )
    answer = Answer.of(read_json(path))
    if answer.status not in STATUSES:
        raise OutputError(f"{path} has the status {answer.status!r}, not one of {', '.join(STATUSES)}: run it again.")
    return answer


def read_survey(folder: Path) -> dict[str, Any]:
    """What `paring sensitivity` found. Raises OutputError where there is nothing."""
    path = folder / "sensitivity.json"
    if not path.is_file():
        raise OutputError(f"{folder} has no sensitivity.json: give the folder of a `paring sensitivity` that ended.")
    return read_json(path)


def read_trials(folder: Path) -> tuple[TrialRow, ...]:
    """Every trial, in the order in which they ended; none where nothing was tried.

    Raises OutputError where a line is damaged; a last line that was cut short is left out, as resuming the run would.
    """
    rows = JsonLines(folder / "trials" / "trials.jsonl").read()
    return tuple(TrialRow.of(Fields(row)) for row in rows)
