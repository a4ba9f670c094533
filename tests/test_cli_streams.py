"""What the command line says on which stream: JSON alone on stdout whoever prints, and what an interrupt leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import ENVIRONMENT, paring, refused, task_file, typed

PRINTS = """
import ctypes, os, sys
print("Files already downloaded")
sys.__stdout__.write("to the stream of the interpreter\\n")
ctypes.CDLL(None).printf(b"from native code\\n")
os.write(1, b"past every buffer\\n")
os.system("echo from a child")
task = sleepy.task()
"""
SAID = (
    "Files already downloaded",
    "to the stream of the interpreter",
    "from native code",
    "past every buffer",
    "from a child",
)
PLAN = ("--backends", "sleepy", "--techniques", "Cheapen", "--plan")


def test_json_stands_alone_also_where_the_task_prints(
    tmp_path: Path, known_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ENVIRONMENT, "PYTHONUNBUFFERED", raising=False)
    finished = paring("optimize", task_file(tmp_path, PRINTS), "--out", tmp_path / "out", *PLAN, "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["tried"]
    for line in SAID:
        assert line in finished.stderr


def test_without_json_what_is_printed_stays_where_it_was(tmp_path: Path, known_machine: None) -> None:
    finished = paring("optimize", task_file(tmp_path, PRINTS), "--out", tmp_path / "out", *PLAN)
    assert finished.returncode == 0, finished.stderr
    for line in (*SAID, "Would try"):
        assert line in finished.stdout


@pytest.mark.parametrize("command", ["doctor", "bench", "verify"])
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_an_interrupt_of_what_saves_nothing_says_no_more(
    command: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        print("at work")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"paring.flow.{command}.{command}", interrupted)
    finished = typed(command, *([] if command == "doctor" else ["nowhere"]), *more)
    assert finished.returncode == 130
    assert finished.stderr.splitlines()[-1] == "paring: interrupted."
    assert "saved" not in finished.stderr
    assert finished.stdout == ("" if more else "at work\n")


def test_an_interrupt_while_kernels_are_measured_says_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("paring.flow.doctor.kernel_table", interrupted)
    finished = typed("doctor", "--kernels")
    assert finished.returncode == 130
    assert finished.stderr.splitlines()[-1] == "paring: interrupted."
    assert finished.stdout == ""


def test_kernels_of_what_reads_no_graphs_are_refused() -> None:
    sentence = refused(typed("doctor", "--kernels", "--backends", "torch"))
    assert sentence == (
        "paring: no kernels could be measured: name a backend that works here and reads ONNX. "
        "torch: it reads no ONNX graphs."
    )
