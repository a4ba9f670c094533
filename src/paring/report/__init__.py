"""Text and pictures for people."""

from __future__ import annotations

from pathlib import Path

from paring.artifact.files import write_text
from paring.report.folder import read_answer, read_trials
from paring.report.html import page
from paring.report.text import print_summary, summary

__all__ = ["print_summary", "summary", "write_report"]


def write_report(folder: Path) -> Path:
    """Write `report.html` anew from `result.json` and `trials/trials.jsonl` alone, and return its path.

    Raises OutputError where there is no finished result, where a file is damaged, or where the page can't be written.
    """
    return write_text(folder / "report.html", page(read_answer(folder), read_trials(folder)))
