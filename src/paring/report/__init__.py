"""Text and pictures for people."""

from __future__ import annotations

from pathlib import Path

from paring.artifact.files import write_text
from paring.report.folder import read_answer, read_survey, read_trials
from paring.report.html import page
from paring.report.survey import survey_page
from paring.report.text import print_summary, summary

__all__ = ["print_summary", "summary", "write_report", "write_survey"]


def write_report(folder: Path) -> Path:
    """Write `report.html` anew from `result.json` and `trials/trials.jsonl` alone, and return its path.

    In a folder of `paring sensitivity` its own page is written. Raises OutputError where there is no finished result,
    where a file is damaged, or where the page can't be written.
    """
    if not (folder / "result.json").is_file() and (folder / "sensitivity.json").is_file():
        return write_survey(folder)
    return write_text(folder / "report.html", page(read_answer(folder), read_trials(folder)))


def write_survey(folder: Path) -> Path:
    """Write `sensitivity.html` from `sensitivity.json` and the trials; its path. Raises as `write_report`."""
    return write_text(folder / "sensitivity.html", survey_page(read_survey(folder), read_trials(folder)))
