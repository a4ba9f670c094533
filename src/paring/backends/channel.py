"""The worker's side of the pipe: JSON lines that a runtime's own printing can't corrupt, and the end of an orphan."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from typing import Any, TextIO

ORPHAN_CHECK_MS = 1000
ALIVE_EVERY_S = 1.0


class Channel:
    """Commands in, answers out. Makes everything that the process prints go to stderr."""

    def __init__(self) -> None:
        self._commands: TextIO = os.fdopen(os.dup(0), "r", encoding="utf-8")
        self._answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        sys.stdout.flush()
        os.dup2(2, 1)
        self._told_s = time.monotonic()

    def commands(self) -> Any:
        """The commands, until the parent closes its end."""
        for line in self._commands:
            self._told_s = time.monotonic()
            yield json.loads(line)

    def alive(self) -> None:
        """Tell the parent now and then that a long command gets on: slow is not the same as stuck."""
        now_s = time.monotonic()
        if now_s - self._told_s >= ALIVE_EVERY_S:
            self._told_s = now_s
            self.answer({"alive": True})

    def answer(self, value: dict[str, Any]) -> None:
        """Send one answer."""
        self._answers.write(json.dumps(value) + "\n")
        self._answers.flush()

    def die_with_parent(self, scratch: str) -> threading.Thread:
        """End this process, and remove its scratch folder, as soon as the parent is gone, even in the midst of a run.

        A thread of its own watches, and not the kernel's parent-death signal: that one also comes when the *thread*
        that started this process ends, as the threads of a pool do.
        Returns the watching thread, which ends only with the process.
        """
        parent = os.getppid()
        watch = threading.Thread(target=_exit_without, args=(self._commands.fileno(), parent, scratch), daemon=True)
        watch.start()
        return watch


def _exit_without(pipe: int, parent: int, scratch: str) -> None:
    poll = select.poll()
    poll.register(pipe, 0)
    # The pipe alone is not enough: a process that the parent forked may hold its other end open.
    while not poll.poll(ORPHAN_CHECK_MS) and os.getppid() == parent:
        pass
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; only the parent decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
