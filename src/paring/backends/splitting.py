"""One batch in several pieces: side by side on lanes (streams), one after another (micro-batches), or both.

Streams win where a layer is too small to keep all threads busy; micro-batches where the activations of a large batch
do not fit the cache. Both are right for any network whose rows do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock

import numpy as np

from paring.backends.checks import check_specs, checked, in_one_sentence
from paring.errors import BackendError, quoted
from paring.types import Arrays, TensorSpec, is_whole

Run = Callable[[Arrays], Arrays]
"""Runs one piece of a batch: named arrays -> named arrays, which it must not touch again."""


def check_split(*, streams: int = 1, micro_batch: int = 0, threads: int = 0) -> None:
    """Raise BackendError for options that no backend can have."""
    if not (is_whole(streams) and streams >= 1):
        told = f"streams={quoted(streams)}"
        raise BackendError(f"{told} must be 1 or more: it is the number of pieces that run side by side.")
    if not (is_whole(micro_batch) and micro_batch >= 0):
        raise BackendError(f"micro_batch={quoted(micro_batch)} must be a number of rows, or 0 for whole batches.")
    if not (is_whole(threads) and threads >= 0):
        raise BackendError(f"threads={quoted(threads)} must be a number of threads, or 0 for all that are given.")


def pieces_of(rows: int, lanes: int, micro_batch: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each lane that has work the ranges (start, stop) that it runs in turn; together they are 0..rows in order."""
    used = min(lanes, rows)
    bounds = [rows * lane // used for lane in range(used + 1)]
    return tuple(
        tuple((at, min(at + (micro_batch or rows), stop)) for at in range(start, stop, micro_batch or rows))
        for start, stop in pairwise(bounds)
    )


class SplitSession:
    """A session over one or more lanes. It runs one batch at a time; further callers wait for their turn."""

    def __init__(
        self, name: str, lanes: Sequence[Run], inputs: tuple[TensorSpec, ...], *, micro_batch: int = 0
    ) -> None:
        check_specs(inputs, name)
        self.inputs = inputs
        self._name = name
        self._lanes = tuple(lanes)
        self._micro_batch = micro_batch
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(len(lanes) - 1, "paring-lane") if len(lanes) > 1 else None

    def run(self, inputs: Arrays) -> Arrays:
        """Run one batch. Raises InputError where the inputs do not fit, BackendError where the runtime fails."""
        inputs = checked(self.inputs, inputs)
        rows = len(next(iter(inputs.values())))
        with self._lock:
            if not self._lanes:
                raise BackendError(f"{self._name} was closed: load the network again.")
            try:
                results = self._run_lanes(inputs, rows)
            except BackendError:
                raise
            except Exception as error:
                raise BackendError(f"{self._name} failed on a batch of {rows}: {in_one_sentence(error)}.") from error
        return results[0] if len(results) == 1 else _joined(results)

    def _run_lanes(self, inputs: Arrays, rows: int) -> list[Arrays]:
        plan = pieces_of(rows, len(self._lanes), self._micro_batch)
        if self._threads is None or len(plan) == 1:
            return _run_pieces(self._lanes[0], inputs, plan[0])
        started = [
            self._threads.submit(_run_pieces, lane, inputs, pieces)
            for lane, pieces in zip(self._lanes[1:], plan[1:], strict=False)
        ]
        # The caller's thread takes the first lane: one hand-over less than giving every lane to the pool.
        try:
            results = _run_pieces(self._lanes[0], inputs, plan[0])
        finally:
            rest = [future.exception() or future.result() for future in started]
        for result in rest:
            if isinstance(result, BaseException):
                raise result
            results += result
        return results

    def close(self) -> None:
        """Free the lanes and their threads."""
        with self._lock:
            self._lanes = ()
            if self._threads is not None:
                self._threads.shutdown()


def _run_pieces(lane: Run, inputs: Arrays, pieces: Sequence[tuple[int, int]]) -> list[Arrays]:
    return [lane({name: array[start:stop] for name, array in inputs.items()}) for start, stop in pieces]


def _joined(results: list[Arrays]) -> Arrays:
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
