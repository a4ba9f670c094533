"""The command line as a user types it: exit codes, one sentence for each mistake, JSON alone on stdout."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from paring.cli.quantities import duration_s, size_bytes
from paring.errors import InputError
from tests import sleepy
from tests.command_line import ENVIRONMENT, ROOT, Finished, paring, refused, task_file, typed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('no data today')", "user_task.py:5 raised RuntimeError: no data today."),
        ("other = sleepy.task()", "user_task.py:other: name a paring.Task or a function that returns one."),
        ("task = 3", "'task' in"),
        ("def task(): raise OSError('disk gone')", "raised OSError: disk gone."),
        ("task = paring.Task(nn.Linear(6, 3), sleepy.task().evaluate)", "train mode"),
        ("task = paring.Task(nn.Linear(6, 3).eval(), [])", "evaluate is empty"),
        (
            "task = paring.Task(sleepy.network(), [sleepy.rows(1)])",
            "evaluate has 1 row",
        ),
        (
            "task = paring.Task(sleepy.network(), [(torch.ones(2, 6), torch.tensor([0, 3]))])",
            "label 3 is out of range",
        ),
        ("task = sleepy.task(60)", "can't be certified with 45 rows"),
        (
            "class Branch(nn.Module):\n"
            "    def forward(self, x):\n"
            "        return x[:, :3] if x.sum() > 0 else -x[:, :3]\n"
            "task = paring.Task(Branch().eval(), sleepy.task().evaluate)",
            "user_task.py:7",
        ),
    ],
    ids=lambda value: value.splitlines()[0][:40],
)
def test_bad_tasks(tmp_path: Path, text: str, says: str) -> None:
    sentence = refused(typed("optimize", task_file(tmp_path, text), "--out", tmp_path / "out"))
    assert says in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py"], "no such task file: nowhere.py: give file.py, file.py:name, or file.onnx with --data."),
        (["."], "is a folder"),
        (["Makefile"], "neither a .py file that makes a task nor an .onnx graph"),
        (["examples/digits.py", "--objective", "speed"], "objective='speed' is unknown: choose one of latency"),
        (["examples/digits.py", "--max-drop", "-1"], "max_drop=-1.0 must be 0 or more"),
        (["examples/digits.py", "--max-drop", "2"], "max_drop=2 is more than a score can lose, which lies between 0"),
        (["examples/digits.py", "--confidence", "1.5"], "confidence=1.5"),
        (["examples/digits.py", "--time-limit", "soon"], "'soon' is not a time, for example 90s, 20m or 1.5h."),
        (["examples/digits.py", "--max-size", "small"], "'small' is not a size"),
        (["examples/digits.py", "--techniques", "StaticQuantisation"], "did you mean StaticQuantization"),
        (["examples/digits.py", "--backends", "openvin"], "did you mean openvino"),
        (["examples/digits.py", "--threads", "0"], "threads=0 must be a whole number of 1 or more"),
        (["examples/digits.py", "--batch-size", "x"], "Invalid value for '--batch-size'"),
        (["examples/digits.py", "--batch-size", "x"], "--batch-size x"),
        (["examples/digits.py", "--bogus"], "No such option: --bogus"),
        ([], "Missing argument 'task'"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], says: str) -> None:
    sentence = refused(typed("optimize", *arguments, "--out", tmp_path / "out", cwd=ROOT))
    assert says in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["optimize", "examples/digits.py"], "Missing option '--out'"),
        (["optimise"], "No such command 'optimise'"),
        (["bench"], "Missing argument 'paths'"),
    ],
)
def test_mistakes_of_usage_are_one_sentence_with_the_remedy(arguments: list[str], says: str) -> None:
    finished = paring(*arguments)
    assert refused(finished).startswith(f"paring: {says}")
    assert finished.stderr.endswith(f"`paring {' '.join(arguments)}` can't be run, add --help to see what it takes.\n")
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["verify", "nowhere"], "nowhere is no artifact"),
        (["inspect", "nowhere"], "nowhere is no artifact"),
        (["bench", "nowhere"], "nowhere is no artifact"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_commands_on_what_is_not_there(tmp_path: Path, command: list[str], says: str) -> None:
    assert says in refused(typed(*command, cwd=tmp_path))


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    task = task_file(tmp_path, "task = sleepy.task()")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        sentence = refused(typed("optimize", task, "--out", out))
        assert "can't be written (Not a directory): choose another --out" in sentence
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    task = task_file(tmp_path, "task = sleepy.task()")
    command = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); import paring.cli; "
    finished = subprocess.run(
        [sys.executable, "-c", f"{command} paring.cli.main()", "optimize", str(task), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=300,
        check=False,
    )
    sentence = refused(finished)
    assert "out/trials/data/all/input-0.npy can't be written (File too large)" in sentence
    assert "free space" in sentence


@pytest.mark.parametrize("run", [paring, typed], ids=["process", "here"])
def test_a_refusal_and_the_version_are_told_alike_by_a_process_and_here(
    run: Callable[..., Finished], tmp_path: Path
) -> None:
    import paring as package

    assert "nowhere is no artifact" in refused(run("verify", "nowhere", cwd=tmp_path))
    assert run("--version").stdout.strip() == package.__version__


def test_help_has_examples_and_every_command_is_described() -> None:
    top = typed("--help").stdout
    for command in ("optimize", "bench", "verify", "inspect", "report", "doctor"):
        assert command in top
        assert f"paring {command} " in typed(command, "--help").stdout.partition("Example")[2]


def test_doctor_as_json_is_json_alone() -> None:
    found = json.loads(paring("doctor", "--json").stdout)
    reasons = {backend["name"]: backend["reason"] for backend in found["backends"]}
    assert reasons["onnxruntime"] is None
    assert reasons["openvino"] is None
    assert reasons["torch"] is None
    assert found["hardware"]["cores"] >= 1
    multiples = {backend["name"]: backend["channel_multiple"] for backend in found["backends"]}
    # None where too much else is going on to tell.
    assert {multiples["onnxruntime"], multiples["openvino"]} <= {None, 1, 2, 4, 8, 16}
    assert multiples["torch"] is None


KNOWN = ("--backends", "sleepy", "--techniques", "Cheapen", "--time-limit", "30s")


@pytest.fixture(scope="module")
def graph_run(tmp_path_factory: pytest.TempPathFactory, known_machine: None) -> tuple[Path, Finished]:
    """A run on an .onnx file with a data file, through the command line, with JSON."""
    folder = tmp_path_factory.mktemp("graph")
    rows, targets = sleepy.rows(1500)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            sleepy.network(),
            (rows[:2],),
            folder / "net.onnx",
            input_names=["x"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    np.savez(folder / "rows.npz", x=rows.numpy(), targets=targets.numpy())
    arguments = ["optimize", folder / "net.onnx", "--data", folder / "rows.npz", "--out", folder / "out", "--json"]
    return folder, paring(*arguments, *KNOWN)


def test_a_graph_is_optimized_and_json_stands_alone(
    graph_run: tuple[Path, Finished],
) -> None:
    folder, finished = graph_run
    assert finished.returncode == 0, finished.stderr
    values = json.loads(finished.stdout)
    assert values == json.loads((folder / "out" / "result.json").read_text())
    assert values["status"] == "improved"
    assert values["best"]["recipe_text"] == "Cheapen"
    assert values["task"] == "net"
    assert {point["backend"]["name"] for point in values["baselines"]} == {"sleepy"}
    assert "baseline" in finished.stderr


def test_its_folder_is_complete(graph_run: tuple[Path, Finished]) -> None:
    out = graph_run[0] / "out"
    for name in (
        "result.json",
        "report.html",
        "best/manifest.json",
        "frontier/01/manifest.json",
    ):
        assert (out / name).is_file(), name
    assert not list(out.rglob("*.pkl"))
    onnx.checker.check_model(out / "best" / "network.onnx")


def test_the_other_commands_take_it(graph_run: tuple[Path, Finished]) -> None:
    out = graph_run[0] / "out"
    assert json.loads(paring("inspect", out / "best", "--json").stdout)["task"] == "net"
    verified = paring("verify", out, "--time-limit", "1s")
    assert verified.returncode == 0, verified.stdout
    assert "golden outputs" in verified.stdout
    assert paring("report", out).returncode == 0
    rows = json.loads(paring("bench", out, out / "frontier" / "02", "--time-limit", "1s", "--json").stdout)["artifacts"]
    assert len(rows) == 2
    assert rows[0]["speedup"] is None
    assert rows[1]["speedup"]["high"] < 1


def test_an_output_folder_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    task = task_file(tmp_path, "task = sleepy.task()")
    monkeypatch.setattr(Path, "mkdir", mkdir)  # Who runs the tests may be root, whom no permissions stop.
    sentence = refused(typed("optimize", task, "--out", tmp_path / "out"))
    assert "out can't be written (Read-only file system): choose another --out, or free space and" in sentence


def test_a_graph_without_data_or_with_the_wrong_data(graph_run: tuple[Path, Finished], tmp_path: Path) -> None:
    net = graph_run[0] / "net.onnx"
    assert "pass --data FILE.npz" in refused(typed("optimize", net, "--out", tmp_path / "out"))
    np.savez(tmp_path / "wrong.npz", y=np.zeros(3))
    sentence = refused(typed("optimize", net, "--data", tmp_path / "wrong.npz", "--out", tmp_path / "out"))
    assert "lacks 'x'" in sentence


def started(task: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "paring", "optimize", str(task), "--out", str(out), *KNOWN]
    # A shell that runs the tests in the background has them ignore Ctrl-C, and what they start as well.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, preexec_fn=listens)


def wait_for_trials(out: Path, count: int) -> list[str]:
    log = out / "trials" / "trials.jsonl"
    for _ in range(1200):
        lines = log.read_text().splitlines() if log.is_file() else []
        if len(lines) >= count:
            return lines
        time.sleep(0.1)
    raise AssertionError("no trial was logged")


def test_interrupted_then_killed_then_finished(tmp_path: Path, known_machine: None) -> None:
    task, out = task_file(tmp_path, "task = sleepy.task()"), tmp_path / "out"
    first = started(task, out)
    before = wait_for_trials(out, 1)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command goes on from there" in told
    assert told.endswith("paring: interrupted.\n")
    assert "Traceback" not in told
    second = started(task, out)
    middle = wait_for_trials(out, len(before) + 1)
    second.kill()
    second.communicate(timeout=60)
    finished = paring("optimize", task, "--out", out, *KNOWN, "--json")
    assert finished.returncode == 0, finished.stderr
    after = [json.loads(line) for line in (out / "trials" / "trials.jsonl").read_text().splitlines()]
    keys = [row["key"] for row in after]
    assert len(keys) == len(set(keys))
    walls = {row["key"]: row["wall_time_s"] for row in after}
    for row in map(json.loads, middle):
        assert walls[row["key"]] == row["wall_time_s"], "a finished trial was repeated"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("500", 500), ("2MB", 2_000_000), ("2MiB", 2_097_152), ("1.5 kb", 1500)])
def test_sizes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-3s", "0", "3x", "nan", "1e9", "m"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(InputError, match="is not a time"):
        duration_s(text)


def test_a_budget_nobody_meets_is_exit_code_3_with_the_nearest_points(tmp_path: Path) -> None:
    task = task_file(tmp_path, "task = sleepy.task()")
    limits = ["--max-latency-ms", "0.000001", "--backends", "onnxruntime", "--techniques", "HalfPrecision"]
    finished = paring("optimize", task, "--out", tmp_path / "out", "--time-limit", "20s", *limits)
    assert finished.returncode == 3, finished.stderr
    assert "paring: the original misses the budget (latency" in finished.stderr.strip().splitlines()[-1]
    assert "nearest" in finished.stdout
    assert not (tmp_path / "out" / "best").exists()
    values = json.loads((tmp_path / "out" / "result.json").read_text())
    assert values["status"] == "infeasible"
    again = paring("optimize", task, "--out", tmp_path / "out", "--time-limit", "20s", *limits, "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["nearest"] == values["nearest"]
