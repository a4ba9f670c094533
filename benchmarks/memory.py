"""The most memory that a process and all below it hold together, for benchmarks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

SAMPLE_EVERY_S = 0.5


@dataclass
class Memory:
    """The most that this process and all below it held, in bytes of RSS."""

    peak_bytes: int = 0
    stopped: Event = field(default_factory=Event)

    def watch(self) -> None:
        while not self.stopped.wait(SAMPLE_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, sum(rss_bytes(pid) for pid in family(os.getpid())))


@contextmanager
def watched() -> Iterator[Memory]:
    memory = Memory()
    thread = Thread(target=memory.watch)
    thread.start()
    try:
        yield memory
    finally:
        memory.stopped.set()
        thread.join()


def family(root: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # It has just ended.
    found, size = {root}, 0
    while len(found) > size:
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
