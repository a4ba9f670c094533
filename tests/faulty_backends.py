"""Backends that go wrong in the ways that runtimes do; workers load them by this file."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from paring.backends.base import Backend, NetworkFormat
from paring.types import Arrays, Budget, Session


@dataclass(frozen=True)
class _Session:
    fault: str

    def run(self, inputs: Arrays) -> Arrays:
        if self.fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.fault == "real-time signal":
            os.kill(os.getpid(), signal.SIGRTMIN + 3)
        elif self.fault == "exit":
            print("last words on stderr", file=sys.stderr, flush=True)
            os._exit(7)
        elif self.fault == "hang":
            time.sleep(3600)
        elif self.fault == "raise":
            raise ValueError("the kernel is lost\nand more lines")
        elif self.fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cache.bin")
        elif self.fault == "print":
            print('{"error": "a line that looks like an answer"}', flush=True)
            os.write(1, b"bytes from native code\n")
        elif self.fault == "shape":
            return {"y": np.zeros((len(inputs["x"]) + 1, 2), np.float32)}
        elif self.fault == "slow":
            time.sleep(0.01)
        elif self.fault == "slower":
            time.sleep(0.5)
        elif self.fault == "batch":
            return {"y": inputs["x"] * 0 + len(inputs["x"])}
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Faulty(Backend):
    """Doubles x, unless told to go wrong."""

    fault: str = ""
    numbers: tuple[int, ...] = ()

    name: ClassVar[str] = "faulty"
    format: ClassVar[NetworkFormat] = "onnx"

    @classmethod
    def available(cls) -> str | None:
        return None

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        if self.fault == "load":
            raise MemoryError
        return _Session(self.fault)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Absent(Faulty):
    name: ClassVar[str] = "absent"

    @classmethod
    def available(cls) -> str | None:
        return "its licence has run out: renew it."


@dataclass(frozen=True)
class AbortsOnImport(Faulty):
    name: ClassVar[str] = "aborts"

    @classmethod
    def available(cls) -> str | None:
        os.abort()


@dataclass(frozen=True)
class AbortsAsItLoads(Faulty):
    name: ClassVar[str] = "aborts"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        os.abort()


@dataclass(frozen=True)
class Hangs(Faulty):
    name: ClassVar[str] = "hangs"

    @classmethod
    def available(cls) -> str | None:
        time.sleep(3600)
        return None


@dataclass(frozen=True)
class Doubles(Faulty):
    """Works, but does not compute what the network says."""

    name: ClassVar[str] = "doubles"
    package: ClassVar[str | None] = "no-such-package"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        return _Doubled()


class _Doubled:
    def run(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["b"] * 2, "z": inputs["b"][:, 0]}

    def close(self) -> None:
        pass
