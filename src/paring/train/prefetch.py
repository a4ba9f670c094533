"""Batches drawn by a thread of their own where that is worth it: the user's augmentation beside the training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

from paring.data.batches import checked_batches
from paring.errors import DataError
from paring.types import Batch

AHEAD = 4
POLL_S = 0.2
TIMED_BATCHES = 8
SLOW_SHARE = 0.1
"""Of the time of the first batches: data that takes more is drawn ahead."""


@dataclass(frozen=True)
class Drawn:
    """One batch of the training data and where it stood: both numbers count from 0."""

    epoch: int
    step: int
    batch: Batch


def epochs_of(train: Iterable[Batch], epochs: int) -> Iterator[Drawn]:
    """All batches of so many passes over the data. Raises DataError where a pass is empty or the data fails."""
    for epoch in range(epochs):
        step = -1
        for step, batch in enumerate(checked_batches(train, f"epoch {epoch + 1} of train")):
            yield Drawn(epoch, step, batch)
        if step < 0:
            raise DataError(_why_empty(epoch))


def drawn_in_time(drawn: Iterator[Drawn], expired: Callable[[], bool]) -> Iterator[Drawn]:
    """The same batches; drawn ahead where the first ones show that drawing takes a good part of the time.

    Where it does not, a second thread costs more than it saves: on a processor whose cores all train, the training's
    threads wait for each other whenever one of them gives way (ResNet-20, 2 cores: a sixth slower).
    """
    begin_s, waited_s = time.monotonic(), 0.0
    for _ in range(TIMED_BATCHES):
        asked_s = time.monotonic()
        item = next(drawn, None)
        waited_s += time.monotonic() - asked_s
        if item is None:
            return
        yield item
        if waited_s > SLOW_SHARE * (time.monotonic() - begin_s):
            yield from prefetched(drawn, expired)
            return
    yield from drawn


def prefetched(drawn: Iterator[Drawn], expired: Callable[[], bool], ahead: int = AHEAD) -> Iterator[Drawn]:
    """The same batches in the same order, up to `ahead` of them drawn by a thread before they are asked for.

    Ends early once `expired`, even while the data keeps us waiting.
    """
    queue: Queue[Any] = Queue(maxsize=ahead)
    stopped = Event()
    Thread(target=_draw, args=(drawn, queue, stopped), name="paring-prefetch", daemon=True).start()
    try:
        while not expired():
            try:
                item = queue.get(timeout=POLL_S)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def _draw(drawn: Iterator[Drawn], queue: Queue[Any], stopped: Event) -> None:
    """What the thread does; an error travels through the queue to whoever waits for a batch."""
    try:
        for item in drawn:
            if not _put(item, queue, stopped):
                return
        _put(None, queue, stopped)
    except BaseException as error:
        _put(error, queue, stopped)


def _put(item: Any, queue: Queue[Any], stopped: Event) -> bool:
    while not stopped.is_set():
        try:
            queue.put(item, timeout=POLL_S)
        except Full:
            continue
        return True
    return False


def _why_empty(epoch: int) -> str:
    if epoch == 0:
        return "train is empty: it has no batch."
    return f"train has no batch in epoch {epoch + 1}: each iter(train) must start a new pass over the data."
