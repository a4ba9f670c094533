"""How many cores this process may keep busy (its affinity, a container's CPU quota), and how many a network takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from paring.errors import BudgetError, quoted
from paring.types import is_whole


def usable_cores() -> int:
    """Cores that this process may keep busy, at least 1: fewer than the machine has where it was confined to some."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(allowed, quota_cores(Path("/")) or allowed))


def check_threads(threads: int | None, otherwise: str) -> None:
    """Raise BudgetError for a number of threads that is none or that no core is there for; `otherwise` is what None is.

    Threads that outnumber the cores wait for each other, many times longer than they work: nothing that is measured
    so tells what the network takes, and no time limit can be kept.
    """
    if threads is None:
        return
    if not (is_whole(threads) and threads >= 1):
        raise BudgetError(f"threads={quoted(threads)} must be a whole number of 1 or more, or None for {otherwise}.")
    if threads > usable_cores():
        cores = f"{usable_cores()} core{'s' if usable_cores() > 1 else ''}"
        raise BudgetError(
            f"threads={threads} are more than the {cores} that this process may use: give at most {usable_cores()}, or "
            f"None for {otherwise}."
        )


def threads_taken(own: int, given: int) -> int:
    """Threads of a network: what its backend's option `own` says (0: all), and never more than it is given."""
    return min(own or given, given)


def fewer_threads(given: int, batch_size: int) -> tuple[int, ...]:
    """Smaller numbers of threads that may be faster than all that are given.

    One, where a batch is too small to keep more of them busy; half, where two of them share a physical core.
    """
    one = (1,) if given > 1 and batch_size < 2 * given else ()
    return (*one, given // 2) if given > 3 else one


def quota_cores(root: Path) -> int | None:
    """Whole cores that Linux's control groups leave this process, at least 1; None without a quota.

    A thread more than the quota pays for makes all of them wait for the rest of a period, so shares of a core are left
    out. Every group above the process's own limits it as well. `root` is the folder that holds proc and sys.
    """
    shares = [share for folder in _groups(root) if (share := _share(folder)) is not None]
    return max(1, int(min(shares))) if shares else None


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the process's control groups, of version 2 and of version 1's cpu controller, with those above them.

    Inside a container /proc may tell a path of the host, while the container's own group is mounted as the topmost one.
    """
    listing = root / "proc/self/cgroup"
    for line in listing.read_text().splitlines() if listing.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = PurePosixPath(path.lstrip("/"))
        yield from (mount / above for above in (own, *own.parents))


def _share(group: Path) -> float | None:
    """Cores' worth of time that a group may spend; None where it has no limit."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text().split()
    elif (group / "cpu.cfs_quota_us").is_file():
        quota, period = ((group / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period"))
    else:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
