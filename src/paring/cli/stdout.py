"""Standard output for the answer alone."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

STDOUT, STDERR = 1, 2


@contextmanager
def prints_on_stderr() -> Iterator[None]:
    """What is printed meanwhile goes to stderr: by Python, by native code, and by processes that inherit stdout."""
    stdout = sys.stdout
    stdout.flush()
    kept = os.dup(STDOUT)
    try:
        os.dup2(STDERR, STDOUT)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # What still lies in a buffer would follow the answer when the process ends.
        stdout.flush()
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, STDOUT)
        os.close(kept)
