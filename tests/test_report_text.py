"""The summary in a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from paring.report import print_summary, summary

DATA = Path(__file__).parent / "data" / "report"


def result() -> dict[str, Any]:
    return json.loads((DATA / "result.json").read_text("utf-8"))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True


def test_the_plain_summary_has_the_table_and_the_certified_figures() -> None:
    lines = summary(result()).splitlines()
    assert lines[0].startswith("2.44x faster (2.38-2.49) than the original on its fastest runtime, at a certified drop")
    table = [line for line in lines if "91." in line]
    assert [line.split()[0] for line in table] == ["original"] * 7 + ["RemoveBlocks(count=2)"]
    assert re.split(" {2,}", table[0])[1:] == ["onnxruntime", "0.478 ms", "2,092 /s", "1.10 MB", "91.73 %", "at length"]
    assert len({len(line) for line in table}) == 1, "columns line up"
    assert "speed-up: 2.44x (2.38-2.49)" in lines
    assert "drop: 0.24 points seen, certified at most 0.60 points at 95 %, n = 7,000" in lines
    assert "size: 1.10 MB to 243 kB (4.51x)" in lines


def test_the_plain_summary_is_ascii_for_pipes_of_any_encoding() -> None:
    assert summary(result()).isascii()


def test_a_pipe_gets_plain_text() -> None:
    out = io.StringIO()
    print_summary(result(), out)
    assert out.getvalue() == summary(result())


def test_a_terminal_gets_colour_and_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal("utf-8")
    print_summary(result(), out)
    shown = out.getvalue()
    assert "\x1b[" in shown
    for figure in ("2.44×", "2.38–2.49", "0.478 ms", "243 kB", "certified at most 0.60 points"):
        assert figure in shown


def test_a_terminal_that_cannot_show_the_signs_gets_plain_text() -> None:
    out = Terminal("latin-1")
    print_summary(result(), out)
    assert out.getvalue() == summary(result())


def test_brackets_in_names_are_text_and_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    answer = result()
    answer["best"]["recipe_text"] = "Mine(layers=[red])"
    answer["reason"] = "kept [bold]apart[/bold]"
    out = Terminal("UTF-8")
    print_summary(answer, out)
    assert "Mine(layers=[red])" in out.getvalue()
    assert "[bold]apart[/bold]" in out.getvalue()


def test_kept_original_has_no_row_of_its_own() -> None:
    answer = {**result(), "status": "kept-original", "reason": "nothing was faster", "certificate": None}
    answer["best"] = answer["baseline"]
    text = summary(answer)
    assert text.startswith("The original was kept, on onnxruntime, its fastest runtime.\nNothing was faster.\n")
    assert sum(line.startswith("original ") for line in text.splitlines()) == 6
    assert [line.split()[2] for line in text.splitlines() if line.startswith("original, kept")] == ["onnxruntime"]
    assert "speed-up" not in text
    assert "certified" not in text


def test_infeasible_names_the_nearest_points() -> None:
    near = {**result()["best"], "misses": "0.146 ms too slow"}
    answer = {**result(), "status": "infeasible", "reason": "0.05 ms is out of reach", "best": None, "nearest": [near]}
    text = summary({**answer, "certificate": None, "speedup": None})
    assert text.startswith("Nothing that was tried meets the budget.\n0.05 ms is out of reach.\n")
    assert (
        "nearest: RemoveBlocks(count=2) -> FineTune(epochs=8) -> StaticQuantization(calibration=entropy) on onnxruntime"
        in text
    )
    assert "score 91.52 %): 0.146 ms too slow" in text


def test_a_result_with_nothing_in_it_is_still_a_sentence() -> None:
    assert summary({"status": "infeasible"}) == "Nothing that was tried meets the budget.\n"
    assert summary({"status": "kept-original", "reason": ""}) == "The original was kept.\n"
    assert summary({"status": "improved", "best": {}}).startswith("Improved over the original")
