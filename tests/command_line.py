"""The command line, in a process of its own or in this one, and what its users are told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from paring.cli import main

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
    "COLUMNS": "200",
    "TERM": "dumb",
}
HEAD = "import torch\nfrom torch import nn\nimport paring\nfrom tests import sleepy\n"

Finished = subprocess.CompletedProcess[str]


def paring(*arguments: str | Path, cwd: Path | None = None) -> Finished:
    """Run the command to its end in a process of its own, as its users do."""
    command = [sys.executable, "-m", "paring", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, timeout=300, check=False)


def typed(*arguments: str | Path, cwd: Path = ROOT) -> Finished:
    """The same in this process, which spares the imports."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["paring", *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("COLUMNS", ENVIRONMENT["COLUMNS"])
        patch.setenv("TERM", ENVIRONMENT["TERM"])
        patch.chdir(cwd)
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(bool(left.code))
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def refused(finished: Finished) -> str:
    """The one sentence of a refusal: exit code 2, no traceback, nothing on stdout."""
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    (sentence,) = (line for line in finished.stderr.splitlines() if line.startswith("paring: "))
    assert finished.stderr.strip().endswith(sentence)
    return sentence


def task_file(folder: Path, text: str) -> Path:
    file = folder / "user_task.py"
    file.write_text(HEAD + text)
    return file
