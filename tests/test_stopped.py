"""What a run that is stopped or refused says of what it leaves, and who may go on in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from paring.flow.folder import RunFolder
from tests.command_line import Finished, refused, task_file, typed

Search = Callable[..., Finished]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """A search that is stopped by Ctrl-C while it prepares: its question is known, and nothing is measured yet."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("paring.flow.prepare.probe", interrupted)
    task = task_file(tmp_path, "task = sleepy.task()")
    return lambda *more: typed("optimize", task, "--out", tmp_path / "out", *more)


def question(folder: Path) -> float:
    """The drop that the run in the folder was asked for."""
    return float(json.loads((folder / "out" / "trials" / "run.json").read_text())["max_drop"])


def test_stopped_before_the_first_trial_it_says_what_is_saved_and_how_to_go_on(tmp_path: Path, stopped: Search) -> None:
    for _ in range(2):
        finished = stopped()
        assert finished.returncode == 130
        assert finished.stderr.splitlines()[-2:] == [
            f"stopped: what was prepared is saved in {tmp_path / 'out'}; without --fresh the same command goes on "
            "from there.",
            "paring: interrupted.",
        ]


def test_stopped_later_it_says_that_trials_are_saved(tmp_path: Path, stopped: Search) -> None:
    stopped()
    RunFolder(tmp_path / "out").log.rewrite([])
    assert f"stopped: what had finished is saved in {tmp_path / 'out'};" in stopped().stderr


def test_a_folder_in_which_nothing_was_measured_is_taken_over_by_another_question(
    tmp_path: Path, stopped: Search
) -> None:
    stopped()
    left = tmp_path / "out" / "trials" / "networks" / "of-the-first"
    left.mkdir(parents=True)
    assert stopped("--max-drop", "0.02").returncode == 130
    assert question(tmp_path) == 0.02
    assert not left.exists()


@pytest.mark.parametrize("made", ["trials/trials.jsonl", "result.json"])
def test_one_in_which_something_was_is_not_and_does_not_say_that_the_command_goes_on(
    tmp_path: Path, stopped: Search, made: str
) -> None:
    stopped()
    (tmp_path / "out" / made).write_text('{"key": "a"}\n')
    finished = stopped("--max-drop", "0.02")
    assert "another max_drop (0.01 there, 0.02 here): choose another --out, or pass --fresh" in refused(finished)
    assert "goes on from there" not in finished.stderr
    assert question(tmp_path) == 0.01
