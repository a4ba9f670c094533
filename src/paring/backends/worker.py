"""A process that loads one network in one backend and obeys commands: `python -m paring.backends.worker`.

Commands come as JSON lines on stdin, answers go as JSON lines to stdout; arrays travel as .npy files. It imports the
runtime that it was told to load, and nothing of torch unless that runtime is torch.
"""

from __future__ import annotations

import gc
import itertools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paring.artifact.files import write_scratch_array
from paring.artifact.packed import readable
from paring.backends.base import Backend
from paring.backends.channel import Channel, ignore_interrupts
from paring.backends.checks import in_one_sentence
from paring.backends.multiples import timed_widths
from paring.backends.probing import probed
from paring.errors import BackendError, InputError, OutputError, ParingError, disk_refused, writing
from paring.registry import Reference
from paring.types import Arrays, Session

if TYPE_CHECKING:
    from paring.backends.kernel_timing import KernelTimer

MAXIMUM_TIMED_BYTES = 64 * 1024 * 1024
"""Rows that a timing keeps in memory: enough for the caches to be cold, too few to count in the peak memory."""

SETTLE_STEP_S = 0.002
SETTLE_LIMIT_S = 0.5


class Worker:
    """Answers commands; each method named after a command takes its fields and gives the answer's."""

    def __init__(self, scratch: Path, alive: Callable[[], None] = lambda: None) -> None:
        self._scratch = scratch
        self._alive = alive
        self._session: Session | None = None
        self._timed: tuple[Any, list[Arrays]] = (None, [])
        self._kernels: KernelTimer | None = None
        self._commands: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "probe": self.probe,
            "time_widths": self.time_widths,
            "kernel": self.kernel,
            "saturating": self.saturating,
            "load": self.load,
            "run": self.run,
            "run_rows": self.run_rows,
            "time": self.time,
            "peak_memory": self.peak_memory,
        }

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command; an error becomes an answer too."""
        try:
            return self._commands[command["command"]](command)
        except Exception as error:
            return _failure(error)

    def probe(self, command: dict[str, Any]) -> dict[str, Any]:
        """Whether the runtime works here."""
        return probed(_backend_class(command["class"]), command["options"], self._scratch)

    def time_widths(self, command: dict[str, Any]) -> dict[str, Any]:
        """What networks of neighbouring widths take."""
        return timed_widths(_backend_class(command["class"]), self._scratch)

    def kernel(self, command: dict[str, Any]) -> dict[str, Any]:
        """What a layer in some form comes to."""
        # Not above: they import onnx, which has no place in the memory of a process that is measured.
        from paring.backends.kernel_timing import KernelTimer

        if self._kernels is None:
            self._kernels = KernelTimer(_backend(command), self._scratch)
        return self._kernels.tried(command["form"], command["layer"])

    def saturating(self, command: dict[str, Any]) -> dict[str, Any]:
        """Where sums of products are cut off."""
        from paring.backends.kernel_timing import saturating

        return saturating(_backend(command), self._scratch)

    def load(self, command: dict[str, Any]) -> dict[str, Any]:
        """Load the network."""
        backend = _backend(command)
        with readable(Path(command["network"])) as network:
            self._session = backend.load(network, threads=command["threads"], device=command["device"])
        return {}

    @property
    def session(self) -> Session:
        """The loaded network."""
        if self._session is None:
            raise BackendError("no network is loaded: send the command load first.")
        return self._session

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run one batch that lies in .npy files."""
        outputs = self.session.run({name: np.load(file) for name, file in command["inputs"].items()})
        return {"outputs": _written(outputs, Path(command["folder"]))}

    def run_rows(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run a range of rows of mapped .npy files in batches of one size: following rows fill up the last one."""
        start, stop, batch_size = command["start"], command["stop"], command["batch_size"]
        inputs = _mapped(command["inputs"], stop)
        folder = Path(command["folder"])
        stores: Arrays = {}
        for at in range(start, stop, batch_size):
            outputs = self.session.run(_batch(inputs, at, batch_size))
            if not stores:
                stores = {name: _store(folder, i, v, stop - start) for i, (name, v) in enumerate(outputs.items())}
            for name, value in outputs.items():
                _check_like(name, value, stores[name], batch_size)
                stores[name][at - start : at - start + batch_size] = value[: stop - at]
            self._alive()
        return {"outputs": {name: str(_file(folder, i)) for i, name in enumerate(stores)}}

    def time(self, command: dict[str, Any]) -> dict[str, Any]:
        """Nanoseconds of each call in a block of calls over the rows' batches, in turn."""
        batches = itertools.cycle(self._timing_batches(command["inputs"], command["batch_size"]))
        session, least_ns, least_runs = self.session, int(command["min_time_s"] * 1e9), command["min_runs"]
        for _ in range(command["warm_runs"]):
            session.run(next(batches))
            self._alive()
        taken: list[int] = []
        gc.collect()
        gc.disable()
        begin = time.perf_counter_ns()
        while len(taken) < least_runs or time.perf_counter_ns() - begin < least_ns:
            batch = next(batches)
            before = time.perf_counter_ns()
            session.run(batch)
            taken.append(time.perf_counter_ns() - before)
            self._alive()
        gc.enable()
        _settle()
        return {"call_ns": taken}

    def _timing_batches(self, files: dict[str, str], batch_size: int) -> list[Arrays]:
        key = (tuple(files.items()), batch_size)
        if self._timed[0] != key:
            self._timed = (key, list(_batches_to_time(_mapped(files, None), batch_size)))
        return self._timed[1]

    def peak_memory(self, command: dict[str, Any]) -> dict[str, Any]:
        """The most memory that this process has held so far."""
        return {"bytes": _peak_memory_bytes()}


def _failure(error: Exception) -> dict[str, Any]:
    """An error as an answer; a disk that refuses is told apart, since it is no fault of the network or the runtime."""
    if isinstance(error, OSError):
        error = disk_refused(error) or error
    text = str(error) if isinstance(error, ParingError) else f"{type(error).__name__}: {in_one_sentence(error)}."
    return {
        "error": text,
        "input_error": isinstance(error, InputError),
        "disk_refused": isinstance(error, OutputError),
    }


def _backend(command: dict[str, Any]) -> Backend:
    return _backend_class(command["class"]).with_options(command["options"])


def _backend_class(reference: dict[str, Any]) -> type[Backend]:
    kind = Reference(**reference).load()
    if not issubclass(kind, Backend):
        raise InputError(f"{kind.__qualname__} is no Backend: derive it from paring.backends.base.Backend.")
    return kind


def _mapped(files: dict[str, str], stop: int | None) -> Arrays:
    arrays: Arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
    for name, array in arrays.items():
        if stop is not None and stop > len(array):
            raise InputError(f"rows up to {stop} are asked for, and the input {name!r} has {len(array)}.")
    return arrays


def _batches_to_time(arrays: Arrays, batch_size: int) -> Iterator[Arrays]:
    """Whole batches, as many as the memory set aside for them holds; too few rows are repeated to fill one."""
    rows = min(len(array) for array in arrays.values())
    row_bytes = sum(array[:1].nbytes for array in arrays.values())
    count = max(1, min(rows // batch_size, MAXIMUM_TIMED_BYTES // max(1, row_bytes * batch_size)))
    for number in range(count):
        yield _batch(arrays, number * batch_size, batch_size)


def _batch(arrays: Arrays, at: int, batch_size: int) -> Arrays:
    """A copy of the batch that begins at a row; after the last row come the first ones again."""
    picked = np.arange(at, at + batch_size)
    return {name: np.ascontiguousarray(array[picked % len(array)]) for name, array in arrays.items()}


def _settle() -> None:
    """Wait until this process's threads have stopped spinning, so that they take nothing from whoever runs next."""
    end = time.monotonic() + SETTLE_LIMIT_S
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(SETTLE_STEP_S)
        if time.process_time() - before < SETTLE_STEP_S / 4:
            return


def _file(folder: Path, number: int) -> Path:
    return folder / f"output-{number}.npy"


def _written(outputs: Arrays, folder: Path) -> dict[str, str]:
    for number, value in enumerate(outputs.values()):
        write_scratch_array(_file(folder, number), value)
    return {name: str(_file(folder, number)) for number, name in enumerate(outputs)}


def _store(folder: Path, number: int, like: Any, rows: int) -> Any:
    file = _file(folder, number)
    with writing(file):
        store = np.lib.format.open_memmap(file, mode="w+", dtype=like.dtype, shape=(rows, *like.shape[1:]))
        _reserve(file)
    return store


def _reserve(file: Path) -> None:
    """Take the bytes of a file that is mapped: where the disk is full later on, a write to the map is a SIGBUS."""
    if sys.platform == "darwin":  # It has no such call.
        return
    with file.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _check_like(name: str, value: Any, store: Any, rows: int) -> None:
    if value.shape != (rows, *store.shape[1:]):
        raise InputError(
            f"the output {name!r} has shape {value.shape} for {rows} rows, and other batches gave rows of shape "
            f"{store.shape[1:]}: every output needs the batch as axis 0 and one shape for all rows."
        )


def _peak_memory_bytes() -> int:
    """Peak resident memory. On Linux of this program alone: getrusage would count what its parent held at the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Obey until the parent says close or is gone."""
    ignore_interrupts()
    channel = Channel()
    watch = channel.die_with_parent(sys.argv[1])
    worker = Worker(Path(sys.argv[1]), channel.alive)
    for command in channel.commands():
        if command["command"] == "close":
            return
        channel.answer(worker.obey(command))
    # The parent is gone: the watch is removing the scratch folder, and must not be cut off by this thread's end.
    watch.join()


if __name__ == "__main__":
    main()
