"""A network in a process of its own: a crash of the runtime is an error here, and its threads spin only there."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from paring.artifact.files import write_scratch_array
from paring.backends.base import Backend
from paring.backends.process import WorkerProcess, class_reference
from paring.types import Array, Arrays, Signature

STALL_LIMIT_S = 300.0
"""A process is stopped after so long without a sign of life: time to load a network, or to run one batch."""


@dataclass(frozen=True)
class Deployment:
    """A network's file in a backend, not loaded yet; without a `signature` its outputs have the names in the file.

    Whoever waits for its process waits until `deadline_s`, a `time.monotonic()`: so whoever knows how long a run may
    take says it once, and all that is done with the deployment ends with the run.
    """

    backend: Backend
    network: Path
    signature: Signature | None = None
    device: str = "cpu"
    deadline_s: float = math.inf

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.backend} on {self.network.name}"


class IsolatedSession:
    """A session whose runtime lives in another process. Every method raises BackendError once that has died.

    What is still waited for at `deadline_s` is stopped, and raises TimeUpError.
    """

    def __init__(
        self,
        backend: Backend,
        network: Path,
        *,
        threads: int,
        signature: Signature | None = None,
        device: str = "cpu",
        time_limit_s: float = STALL_LIMIT_S,
        deadline_s: float = math.inf,
    ) -> None:
        command = {
            "command": "load",
            "class": class_reference(backend),
            "options": backend.options(),
            "network": str(network.resolve()),
            "threads": threads,
            "device": device,
        }
        self._limit_s, self._deadline_s = time_limit_s, deadline_s
        self._signature = signature
        self._worker = WorkerProcess(str(backend))
        try:
            self._ask(command)
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, deployment: Deployment, *, threads: int, time_limit_s: float = STALL_LIMIT_S) -> Self:
        """The session of a deployment."""
        return cls(
            deployment.backend,
            deployment.network,
            threads=threads,
            signature=deployment.signature,
            device=deployment.device,
            time_limit_s=time_limit_s,
            deadline_s=deployment.deadline_s,
        )

    def run(self, inputs: Arrays) -> Arrays:
        """Run one batch; every value has the batch as axis 0."""
        self._worker.check_open()
        with tempfile.TemporaryDirectory(dir=self._worker.scratch) as folder:
            files = {}
            for number, (name, array) in enumerate(inputs.items()):
                files[name] = str(write_scratch_array(Path(folder) / f"input-{number}.npy", array))
            answer = self._ask({"command": "run", "inputs": files, "folder": folder})
            return {name: np.load(file) for name, file in self._as_named(answer["outputs"]).items()}

    def run_rows(
        self, inputs: Mapping[str, Path], *, start: int, stop: int, batch_size: int, folder: Path
    ) -> dict[str, Path]:
        """Run the rows start..stop of .npy files; the outputs are .npy files in `folder`.

        Every batch has `batch_size` rows, as served ones have: the rows that follow, or the first ones, fill up the
        last one.
        """
        command = {
            "command": "run_rows",
            "inputs": _texts(inputs),
            "start": start,
            "stop": stop,
            "batch_size": batch_size,
            "folder": str(folder.resolve()),
        }
        answer = self._ask(command)
        return {name: Path(file) for name, file in self._as_named(answer["outputs"]).items()}

    def _as_named(self, files: dict[str, str]) -> dict[str, str]:
        """The user's names for the outputs, where they are known."""
        return files if self._signature is None else self._signature.as_named(files)

    def time_block(
        self,
        inputs: Mapping[str, Path],
        *,
        batch_size: int,
        min_time_s: float,
        min_runs: int = 1,
        warm_runs: int = 0,
    ) -> Array:
        """Nanoseconds of each call, shape (calls,), over at least `min_time_s` and `min_runs`.

        `warm_runs` calls before them are not timed. Answers once the runtime's threads have come to rest.
        """
        command = {
            "command": "time",
            "inputs": _texts(inputs),
            "batch_size": batch_size,
            "min_time_s": min_time_s,
            "min_runs": min_runs,
            "warm_runs": warm_runs,
        }
        return np.asarray(self._ask(command, min_time_s)["call_ns"], dtype=np.int64)

    def peak_memory_bytes(self) -> int:
        """The most resident memory that the process has held so far: interpreter, runtime and network."""
        return int(self._ask({"command": "peak_memory"})["bytes"])

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._worker.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._worker.alive

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def _ask(self, command: dict[str, Any], longer_s: float = 0.0) -> dict[str, Any]:
        return self._worker.ask(command, self._limit_s + longer_s, self._deadline_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _texts(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(file.resolve()) for name, file in files.items()}
