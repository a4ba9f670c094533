"""What a run tells while it runs."""

from __future__ import annotations

import pytest

from paring.report import progress
from paring.report.progress import TerminalProgress


def test_stages_notes_and_the_best_so_far_are_told_once_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    left_s = 3599.6
    with TerminalProgress(lambda: left_s) as told:
        told.stage("baseline")
        told.trial(1, "1.00x: original")
        told.trial(2, "1.00x: original")
        told.trial(3, "2.00x: StaticQuantization")
        left_s = 65.0
        told.stage("training")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "baseline: 60:00 left",
        "  best so far, after 1 trials: 1.00x: original",
        "  best so far, after 3 trials: 2.00x: StaticQuantization",
        "training: 1:05 left",
    ]


def test_time_that_is_over_is_no_negative_time(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress(lambda: -5.0) as told:
        told.stage("concluding")
    assert capsys.readouterr().err == "concluding: 0:00 left\n"


def test_a_log_file_hears_of_a_long_training_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with TerminalProgress(lambda: 600.0) as told:
        for epoch in range(5):
            told.say(f"epoch {epoch}")
            now += progress.SAY_EVERY_S / 2
    assert capsys.readouterr().err.splitlines() == ["  10:00 left: epoch 2", "  10:00 left: epoch 4"]


def test_a_terminal_shows_one_line_that_is_kept_up_to_date() -> None:
    told = TerminalProgress(lambda: 75.0)
    told.say("StaticQuantization on openvino")
    told.trial(7, "3.10x: StaticQuantization")
    line = told._line().plain
    for part in ("7 trials", "3.10x: StaticQuantization", "1:15 left", "StaticQuantization on openvino"):
        assert part in line
