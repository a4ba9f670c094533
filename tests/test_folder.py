"""The output folder: whose it is, what is left of a run, and what is told where the disk refuses."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paring.artifact import Artifact, Manifest
from paring.artifact.files import JsonLines, replacing_folder, write_array, write_text
from paring.data.job import Job
from paring.data.rows import write_rows
from paring.errors import OutputError, TaskError, writing
from paring.flow.folder import RunFolder
from paring.flow.trials import TrialRunner
from paring.tune import Candidate, Trial
from paring.types import Budget, Signature, TensorSpec
from tests import sleepy

EMPTY = ({"x": np.zeros(1)}, {"y": np.zeros(1)})


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond the limit: the kernel refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def artifact(path: Path) -> Path:
    network = path.with_name("network.onnx")
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_bytes(b"weights")
    signature = Signature(
        (TensorSpec("x", "float32", (None,)),), (TensorSpec("y", "float32", (None,)),), "tensor", "tensor"
    )
    Artifact.write(path, Manifest("t", signature, "sleepy", {}, [], "original", 1, 1), [network], EMPTY)
    network.unlink()
    return path


@pytest.fixture
def of_a_run(tmp_path: Path) -> RunFolder:
    """What a finished run leaves."""
    folder = RunFolder(tmp_path / "out")
    with folder.locked():
        folder.resume({"seed": 1})
        for name in ("modules", "networks", "looks"):
            write_text(folder.trials / name / "file", name)
        for file in (folder.result, folder.root / "report.html"):
            write_text(file, "{}")
        folder.log.append({"key": "a"})
        artifact(folder.root / "best")
        artifact(folder.root / "frontier" / "01")
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["best/a.txt", "frontier/a.txt", "trials/a.txt", "result.json", "report.html"])
def test_what_paring_did_not_make_is_refused_by_name_and_stays(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("mine")
    with pytest.raises(OutputError) as error, RunFolder(tmp_path).locked():
        raise AssertionError("the folder was taken")
    assert str(tmp_path / name.partition("/")[0]) in str(error.value)
    assert "choose another --out, or move it away" in str(error.value)
    assert contents(tmp_path) == {theirs: b"mine"}


@pytest.mark.parametrize("name", ["best/notes.txt", "frontier/01/notes.txt", "frontier/keep/a", "frontier/notes.txt"])
def test_what_was_added_to_a_run_is_refused_by_name(of_a_run: RunFolder, name: str) -> None:
    write_text(of_a_run.root / name, "mine")
    before = contents(of_a_run.root)
    with pytest.raises(OutputError, match=name.removesuffix("/a")), of_a_run.locked():
        raise AssertionError("the folder was taken")
    assert contents(of_a_run.root) == before


def test_a_best_of_their_own_in_the_place_of_ours_is_refused(of_a_run: RunFolder) -> None:
    (of_a_run.root / "best" / "manifest.json").write_text("{}")
    with pytest.raises(OutputError, match="best stands where this run would write"), of_a_run.locked():
        raise AssertionError("the folder was taken")


def test_a_run_goes_on_in_its_own_folder(of_a_run: RunFolder) -> None:
    with of_a_run.locked():
        assert of_a_run.log.read() == [{"key": "a"}]


KILLED = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from paring.artifact.files import replacing_folder

with ExitStack() as stack:
    for name in ("best", "frontier", "trials/modules/original", "trials/networks/0123456789abcdef"):
        (stack.enter_context(replacing_folder(Path(sys.argv[1]) / name)) / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_had_half_made_is_removed_and_nothing_else(of_a_run: RunFolder) -> None:
    for name in (".best.old/a", ".git.abcdefgh/a", ".best.abcdefgh", "trials/.data.abcdefgh/a"):
        write_text(of_a_run.root / name, "mine")
    before = contents(of_a_run.root)
    subprocess.run([sys.executable, "-c", KILLED, of_a_run.root], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    half = [file.parent for file in of_a_run.root.rglob("half")]
    assert len(half) == 4
    with of_a_run.locked():
        assert contents(of_a_run.root) == before
    assert not any(part.exists() for part in half)


def test_a_folder_that_no_run_has_used_is_not_swept(tmp_path: Path) -> None:
    theirs = write_text(tmp_path / ".best.abcdefgh" / "a", "mine")
    with RunFolder(tmp_path).locked():
        assert theirs.is_file()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_meanwhile_does_not_keep_the_folder(of_a_run: RunFolder) -> None:
    """As the workers of a DataLoader are."""
    reader, writer = os.pipe()
    with of_a_run.locked():
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with of_a_run.locked():
            assert of_a_run.log.read() == [{"key": "a"}]
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def refused(folder: RunFolder, *, begun: bool) -> None:
    """A run whose task turns out to have no rows."""
    with folder.locked():
        write_text(folder.trials / "data" / "rows", "rows")
        if begun:
            folder.begin({"seed": 1}, fresh=False)
        raise TaskError("there are no rows.")


@pytest.mark.parametrize("stood", [False, True])
def test_a_run_that_is_refused_before_it_began_leaves_nothing(tmp_path: Path, stood: bool) -> None:
    folder = RunFolder(tmp_path / "out")
    if stood:
        folder.root.mkdir()
    with pytest.raises(TaskError):
        refused(folder, begun=False)
    assert folder.root.exists() == stood
    assert list(tmp_path.glob("out/*")) == []


def test_a_run_that_stops_once_it_began_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    with pytest.raises(TaskError):
        refused(folder, begun=True)
    assert (folder.trials / "run.json").is_file()


def test_what_was_measured_of_the_machine_holds_for_the_whole_run(of_a_run: RunFolder) -> None:
    measures = iter([16, 4, 8])
    again = RunFolder(of_a_run.root)
    found = [folder.measured("channel_multiple", lambda: next(measures)) for folder in (of_a_run, of_a_run, again)]
    assert found == [16, 16, 16]
    again.clear()
    assert again.measured("channel_multiple", lambda: next(measures)) == 4


def test_a_fresh_start_removes_all_that_a_run_made_and_nothing_else(of_a_run: RunFolder) -> None:
    theirs = [of_a_run.root / "notes.txt", of_a_run.trials / "notes.txt"]
    for file in theirs:
        file.write_text("mine")
    with of_a_run.locked():
        of_a_run.clear()
    assert set(contents(of_a_run.root)) == {*theirs, of_a_run.trials / ".lock"}


def test_a_fresh_start_that_is_cut_short_leaves_a_folder_that_is_known(
    of_a_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        if path.name == "networks":
            raise KeyboardInterrupt

    monkeypatch.setattr("paring.flow.folder.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt), of_a_run.locked():
        of_a_run.clear()
    assert (of_a_run.trials / "run.json").is_file()
    assert not of_a_run.log.file.exists()
    monkeypatch.undo()
    with of_a_run.locked():
        of_a_run.clear()
    assert set(contents(of_a_run.root)) == {of_a_run.trials / ".lock"}


def test_a_line_that_the_disk_cut_short_never_happened_and_the_others_stay(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.append({"number": 1})
    with full_disk(200), pytest.raises(OutputError, match=r"log\.jsonl can't be written \(File too large\)"):
        log.append({"text": "x" * 1000})
    assert log.file.stat().st_size == 200
    assert log.read() == [{"number": 1}]
    log.append({"number": 2})
    assert log.read() == [{"number": 1}, {"number": 2}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.file.write_bytes(b'{"number": 1}\n\xff\n{"number": 3}\n')
    with pytest.raises(OutputError, match=r"log\.jsonl, line 2 is damaged"):
        log.read()


def test_a_line_that_is_no_trial_is_named(of_a_run: RunFolder) -> None:
    with pytest.raises(OutputError, match=r"trials\.jsonl holds a line that is no trial .*--fresh"):
        of_a_run.resume({"seed": 1})


def test_a_file_that_the_disk_refuses_stays_as_it_was(tmp_path: Path) -> None:
    text, array = write_text(tmp_path / "a.json", "old"), write_array(tmp_path / "a.npy", np.arange(3))
    with full_disk(500):
        with pytest.raises(OutputError, match=r"a\.json can't be written \(File too large\)"):
            write_text(text, "x" * 1000)
        with pytest.raises(OutputError, match=r"a\.npy can't be written \(File too large\)"):
            write_array(array, np.arange(1000))
    assert text.read_text() == "old"
    assert np.load(array).tolist() == [0, 1, 2]
    assert sorted(tmp_path.iterdir()) == [text, array]


def test_rows_that_the_disk_refuses_are_one_sentence(tmp_path: Path) -> None:
    batches = [(torch.ones(1000, 3), torch.ones(1000))] * 3
    with full_disk(20_000), pytest.raises(OutputError, match=r"input-0\.npy can't be written \(File too large\)"):
        write_rows(batches, tmp_path / "all", ("x",))


def test_rows_that_the_disk_refuses_to_copy_are_one_sentence(tmp_path: Path) -> None:
    rows = write_rows([(torch.ones(1000, 3), torch.ones(1000))], tmp_path / "all", ("x",))
    with full_disk(1_000), pytest.raises(OutputError, match=r"part/.*\.npy can't be written"):
        rows.selected(np.arange(500), tmp_path / "part")


def test_a_folder_that_the_disk_refuses_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with replacing_folder(tmp_path / "networks") as part:
            (part / "network").write_bytes(b"x" * 1000)

    with full_disk(500), pytest.raises(OutputError, match="networks can't be written"):
        write()
    assert list(tmp_path.iterdir()) == []


@dataclass
class Unwritten:
    """Networks that can't be built."""

    error: OSError
    job: Job

    def build(self, candidate: Candidate) -> None:
        raise self.error


def tried(error: OSError) -> Trial:
    networks: Any = Unwritten(error, Job.of(sleepy.task()))
    nothing: Any = None
    runner = TrialRunner(networks, nothing, np.zeros(1), nothing, "sleepy", Budget(), 1, networks.job)
    return runner.run(Candidate((sleepy.Cheapen(),), sleepy.Sleepy(), "post-training"), 1)


def test_a_full_disk_is_no_verdict_on_the_candidate_that_met_it() -> None:
    with pytest.raises(OutputError, match=r"/scratch/a\.npy can't be written \(No space left on device\)"):
        tried(OSError(errno.ENOSPC, "", "/scratch/a.npy"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_place_that_may_not_be_written_is_told_with_the_reason(tmp_path: Path, code: int) -> None:
    says = re.escape(f"a.json can't be written ({os.strerror(code)})")
    with pytest.raises(OutputError, match=says), writing(tmp_path / "a.json"):
        raise OSError(code, os.strerror(code), str(tmp_path / "a.json"))


def test_a_technique_that_may_not_read_a_file_of_its_own_fails_alone() -> None:
    trial = tried(PermissionError(errno.EACCES, "Permission denied", "table.bin"))
    assert trial.outcome == "failed"
    assert "table.bin" in trial.reason


def test_a_technique_that_misses_a_file_of_its_own_fails_alone() -> None:
    trial = tried(FileNotFoundError(errno.ENOENT, "No such file", "table.bin"))
    assert trial.outcome == "failed"
    assert "table.bin" in trial.reason
