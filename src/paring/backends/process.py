"""The parent's side of a worker: start it, ask it, and say in one sentence how it died."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from paring.backends.base import Backend
from paring.errors import BackendError, InputError, OutputError, StalledError, TimeUpError
from paring.registry import Reference

READ_BYTES = 65536
STDERR_TAIL_BYTES = 4096
STDERR_TAIL_LINES = 3
CLOSE_LIMIT_S = 2.0


class WorkerProcess:
    """One worker and a scratch folder that lives as long as it. `name` is what error messages call it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="paring-", ignore_cleanup_errors=True)
        self.scratch = Path(self._folder.name)
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._pending = b""
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # -P: a file in the working directory that is called like a library must not be imported for it.
            [sys.executable, "-P", "-m", "paring.backends.worker", str(self.scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
        )

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def check_open(self) -> None:
        """Raise BackendError where it was closed."""
        if self._stderr.closed:
            raise BackendError(f"{self.name} was closed: load the network again.")

    def ask(self, command: dict[str, Any], time_limit_s: float, deadline_s: float = math.inf) -> dict[str, Any]:
        """Send a command and wait for its answer, however long that takes while the worker says that it gets on.

        Raises OutputError where a disk refused, InputError where the worker found the input at fault, and BackendError
        where it failed, died or gave no sign of life for `time_limit_s`, TimeUpError where it was still at it at
        `deadline_s`, a `time.monotonic()`. In the last three cases it is gone for good.
        """
        assert self._process.stdin is not None
        with self._lock:
            self.check_open()
            try:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise self._death() from None
            answer: dict[str, Any] = {"alive": True}
            while "alive" in answer:
                answer = json.loads(self._line(command["command"], time_limit_s, deadline_s))
        if "error" in answer:
            kind = OutputError if answer["disk_refused"] else InputError if answer["input_error"] else BackendError
            raise kind(answer["error"])
        return answer

    def _line(self, what: str, time_limit_s: float, deadline_s: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        stalled_s = time.monotonic() + time_limit_s
        while b"\n" not in self._pending:
            left_s = min(stalled_s, deadline_s) - time.monotonic()
            if left_s <= 0 or not _readable(pipe, left_s):
                self.kill()
                if deadline_s < stalled_s:
                    raise TimeUpError(f"the time limit ended before {self.name} answered {what!r}: allow more time.")
                raise StalledError(f"{self.name} did not answer {what!r} within {time_limit_s:g} s and was stopped.")
            part = os.read(pipe, READ_BYTES)
            if not part:
                raise self._death()
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _death(self) -> BackendError:
        """How the worker died, with the last lines that it wrote."""
        try:
            code = self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.returncode
        how = f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        lines = self._last_lines()
        return BackendError(f"{self.name} ended its process with {how}{': ' + lines if lines else ''}.")

    def _last_lines(self) -> str:
        if self._stderr.closed:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL_BYTES))
        text = self._stderr.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-STDERR_TAIL_LINES:]).rstrip(".")

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ask the worker to end, make sure that it does, and remove its scratch folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if self._process.poll() is None:
                self._process.stdin.write(b'{"command": "close"}\n')
            self._process.stdin.close()
        except (BrokenPipeError, ValueError):
            # It has just died: there is nothing left to tell it.
            pass
        try:
            self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()
        self._stderr.close()
        self._folder.cleanup()


def _signal_name(number: int) -> str:
    """SIGSEGV, say; of real-time signals only the first and the last have a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _readable(pipe: int, time_limit_s: float) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(time_limit_s * 1000))


def _environment() -> dict[str, str]:
    """This process's own, with its import path: a module that is found here is found there."""
    path = [str(Path(entry).resolve()) for entry in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def class_reference(backend: Backend | type[Backend]) -> dict[str, str | None]:
    """How a worker finds the class of a backend."""
    return Reference.of(backend if isinstance(backend, type) else type(backend)).to_json()
