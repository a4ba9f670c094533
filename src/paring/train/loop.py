"""The one training loop: every technique that takes gradient steps brings its loss and uses this."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_

from paring.data.batches import known_length, rows_in, tensors_of
from paring.data.job import Job
from paring.data.seeding import seeded
from paring.errors import DataError, ParingError, TaskError, TimeUpError, in_words
from paring.train.averaging import Averaged
from paring.train.compiling import compiled
from paring.train.constraint import Constraint, HeldZeros
from paring.train.guard import Guard
from paring.train.mode import train_mode_
from paring.train.optimizer import make_optimizer, set_learning_rate_
from paring.train.precision import device_of, is_convolutional, narrow_type, placed, with_layout_
from paring.train.prefetch import Drawn, drawn_in_time, epochs_of
from paring.train.progress import Progress
from paring.train.scaling import LossScale
from paring.train.schedule import Pace, rate_factor
from paring.train.settings import Training
from paring.types import Batch

Clock: TypeAlias = Callable[[], float]
Loss: TypeAlias = Callable[[nn.Module, Any, Any, float], Tensor]
"""(network in train mode, inputs, targets, share of the training that is done) -> ().

Called under autocast, with the batch on the network's device.
"""


@dataclass(frozen=True)
class Trained:
    """What a training came to: `share` of the steps done (below 1 where the deadline ended it), `loss` of the last."""

    steps: int
    rows: int
    share: float
    loss: float


def fit_(
    model: nn.Module,
    train: Iterable[Batch],
    loss: Loss,
    training: Training,
    job: Job,
    now: Clock = time.monotonic,
    constraint: Constraint | None = None,
) -> Trained:
    """Train the network in place until the last epoch or `job.deadline_s`; the learning rate ends low either way.

    The `constraint` holds throughout; without one, weights that are zero stay zero. The network ends in eval mode. The
    same seed gives the same weights, unless the deadline cuts in. Raises DataError where the data is at fault;
    TaskError where the loss is; TechniqueError where the training diverges twice (the network then has its last good
    weights); TimeUpError where no step fits before the deadline.
    """
    with _threads(job.threads), seeded(job.seed):
        try:
            run = _Run(model, loss, training, job, now, constraint or HeldZeros(model, job.original))
            with run.until_end:
                return run.over(train)
        finally:
            model.eval()
            with_layout_(model, torch.contiguous_format)


class _Run:
    """One call of `fit_`."""

    def __init__(
        self, model: nn.Module, loss: Loss, training: Training, job: Job, now: Clock, constraint: Constraint
    ) -> None:
        self.model, self.loss, self.training, self.job, self.now = model, loss, training, job, now
        self.constraint = constraint
        self.called, self.until_end = model, ExitStack()
        self.device = device_of(model)
        self.channels_last = is_convolutional(model)
        if self.channels_last:
            with_layout_(model, torch.channels_last)
        self.narrow = narrow_type(training.precision, self.device)
        self.scale = LossScale(self.narrow)
        self.fewest_rows = 2 if any(isinstance(module, _BatchNorm) for module in model.modules()) else 1
        self.optimizer = make_optimizer(model, training)
        self.guard, self.averaged = Guard(model), Averaged(model, training.averaged)
        self.gathered = 0
        self.step_s = 0.0
        self.trained = Trained(0, 0, 0.0, float("nan"))

    def over(self, train: Iterable[Batch]) -> Trained:
        """All steps."""
        train_mode_(self.model)
        length = self._length(train)
        source = self._source(train)
        pace = Pace(self.training.epochs, length, self.now(), self.job.deadline_s)
        progress = Progress(self.job.say, self.training.epochs, self.now())
        last: Drawn | None = None
        for drawn in source:
            if last and drawn.epoch > last.epoch:
                pace = replace(pace, steps_per_epoch=last.step + 1)
            if self._expired():
                break
            self._timed_step(drawn, pace)
            last = drawn
            share = pace.progress(drawn.epoch, drawn.step + 1, self.now())
            progress.count(rows_in(drawn.batch[0]), self.trained.loss)
            progress.tell(share, drawn.epoch, pace.time_left_s(share, self.now()), self.now())
        if last and self.gathered:
            self._update(last)
        self._check_end()
        # Only the clock ends a training early; a length that `train` announced wrongly does not.
        return self.trained if self._expired() else replace(self.trained, share=1.0)

    def _length(self, train: Iterable[Batch]) -> int | None:
        """Batches in one pass, where that can be known."""
        length = known_length(train)
        if length is not None:
            return length
        if self.job.deadline_s is not None:
            return None
        # With neither a length nor a deadline nothing would tell when the learning rate has to come down.
        self.job.say("counting the batches of train, which has no length")
        return sum(1 for _ in train)

    def _source(self, train: Iterable[Batch]) -> Iterator[Drawn]:
        """All batches that are large enough to train on."""
        drawn = epochs_of(train, self.training.epochs)
        usable = (item for item in drawn if rows_in(item.batch[0]) >= self.fewest_rows)
        first = next(usable, None)
        if first is None:
            raise DataError("every batch of train has a single row, and BatchNorm needs 2: use larger batches.")
        draws = self._rehearse(first)
        if self.training.compiled:
            forth_and_back = partial(self._forth_and_back, first)
            self.called = self.until_end.enter_context(compiled(self.model, forth_and_back, self.job.say))
        if draws:
            # Data and network share one random generator: with a thread, chance would say who draws first.
            return chain([first], usable)
        return chain([first], drawn_in_time(usable, self._expired))

    def _rehearse(self, drawn: Drawn) -> bool:
        """One step on a copy: falls back to float32 where less fails; True where the network draws at random."""
        before = torch.get_rng_state()
        if self.narrow and (reason := self._failure(drawn)):
            self.job.say(f"training in float32, because {str(self.narrow).removeprefix('torch.')} fails: {reason}")
            self.narrow, self.scale = None, LossScale(None)
        if not self.narrow:
            try:
                self._loss(copy.deepcopy(self.model), drawn, 0.0)
            except ParingError:
                raise
            except Exception as error:
                raise TaskError(f"the first training step fails: {type(error).__name__}: {error}") from error
        draws = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
        return draws

    def _failure(self, drawn: Drawn) -> str:
        """Why a step fails with less than float32; empty where it does not."""
        try:
            loss = self._loss(copy.deepcopy(self.model), drawn, 0.0)
            loss.backward()  # type: ignore[no-untyped-call]
        except ParingError:
            raise
        except Exception as error:  # The loss is anybody's code; what fails in float32 too is told as its fault.
            return in_words(error)
        return "" if torch.isfinite(loss) else "the loss of the first step is not finite"

    def _forth_and_back(self, drawn: Drawn, network: nn.Module) -> None:
        with self.constraint.shown_(0.0):
            self._loss(network, drawn, 0.0).backward()  # type: ignore[no-untyped-call]

    def _expired(self) -> bool:
        deadline_s = self.job.deadline_s
        return deadline_s is not None and self.now() + self.step_s > deadline_s

    def _timed_step(self, drawn: Drawn, pace: Pace) -> None:
        start_s = self.now()
        rows = rows_in(drawn.batch[0])
        # The middle of the step stands for all of it: the first rate is not zero, and the last one is not lost.
        share = pace.progress(drawn.epoch, drawn.step + 0.5, start_s)
        factor = rate_factor(self.training.schedule, share, self.training.warmup)
        rate = self.training.learning_rate * factor
        set_learning_rate_(self.optimizer, rate * self.guard.learning_rate_factor)
        value = self._step(drawn, share)
        self.step_s = self.now() - start_s
        self.averaged.note(share)
        done = pace.of_steps(drawn.epoch, drawn.step + 1)
        self.trained = Trained(self.trained.steps + 1, self.trained.rows + rows, done, value)

    def _step(self, drawn: Drawn, share: float) -> float:
        if not self.gathered:
            self.optimizer.zero_grad()
        with self.constraint.shown_(share):
            loss = self._loss(self.called, drawn, share)
            value = loss.item()
            if math.isfinite(value):
                self.scale.scaled(loss / self.training.accumulate).backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(value):
            self._diverged("the loss", drawn)
            return value
        self.gathered += 1
        if self.gathered == self.training.accumulate:
            self._update(drawn)
        return value

    def _update(self, drawn: Drawn) -> None:
        """The step that the gradients gathered lead to."""
        self.gathered = 0
        self.scale.unscale_(self.model.parameters())
        norm = clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        if torch.isfinite(norm):
            self.scale.good()
            self.guard.good()
            self.optimizer.step()
            self.constraint.settle_()
        elif self.scale.halved():
            scale = f"the loss scaled by {self.scale.factor:g}"
            self.job.say(f"the gradient overflows float16 at {_place(drawn)}: on without this step, {scale}")
        else:
            self._diverged("the gradient", drawn)

    def _loss(self, model: nn.Module, drawn: Drawn, share: float) -> Tensor:
        inputs, targets = (placed(values, self.device, self.channels_last) for values in drawn.batch)
        with torch.autocast(self.device.type, self.narrow, enabled=self.narrow is not None):
            loss = self.loss(model, inputs, targets, share)
        if loss.ndim:
            raise TaskError(f"the loss has shape {tuple(loss.shape)}: return a single number, such as the mean.")
        return loss.float()

    def _diverged(self, what: str, drawn: Drawn) -> None:
        where = _place(drawn)
        for value in chain(*(tensors_of(values) for values in drawn.batch)):
            if not torch.isfinite(value).all():
                self.guard.restore_()
                raise DataError(f"train holds NaN or infinity in the batch of {where}: remove such rows.")
        instead = " or precision='float32'" if self.narrow == torch.float16 else ""
        self.guard.bad(f"{what} at {where}", f"a smaller learning_rate{instead}")
        self.optimizer.state.clear()
        self.averaged.forget()
        self.gathered = 0
        self.job.say(f"{what} is not finite at {where}: on from the last good weights with smaller steps")

    def _check_end(self) -> None:
        if not self.trained.steps:
            raise TimeUpError("no training step fits before the deadline: give more time.")
        self.averaged.put_()
        if not self.guard.is_finite():
            self.guard.restore_()
        self.constraint.finish_()


def _place(drawn: Drawn) -> str:
    """Where in the training, as people count."""
    return f"step {drawn.step + 1} of epoch {drawn.epoch + 1}"


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads within; None for as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
