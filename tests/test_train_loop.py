"""The training loop as its users see it: what ends it, what it makes of bad data, and that it repeats itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from paring.data.job import Job
from paring.errors import TaskError, TechniqueError, TimeUpError
from paring.train.constraint import Constraint
from paring.train.loop import Trained, fit_
from paring.train.precision import has_bf16
from paring.train.prefetch import epochs_of, prefetched
from paring.train.settings import Groups, Optimizer, Precision, Training
from paring.types import Batch, Task

EASY = Training(epochs=3, learning_rate=0.05)
LINE = torch.tensor([[1.0], [-2.0], [0.5]])


def line_data(batches: int = 8, rows: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(rows, 3, generator=generator) for _ in range(batches)]
    return [(x, x @ LINE) for x in inputs]


def squared(model: nn.Module, inputs: Tensor, targets: Tensor, share: float = 0.0) -> Tensor:
    return mse_loss(model(inputs).float(), targets)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def job_of(data: object = None, seed: int = 0) -> Job:
    return Job.of(Task(linear().eval(), line_data(1), train=data), seed=seed, threads=1)  # type: ignore[arg-type]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


class Unsized:
    """Data that can be read again and again and has no length."""

    def __init__(self, data: list[Batch]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.data)


def test_it_learns_and_ends_in_eval_mode() -> None:
    model = linear()
    before = squared(model, *line_data()[0]).item()  # type: ignore[arg-type]
    trained = fit_(model, line_data(), squared, replace(EASY, epochs=20, weight_decay=0.0), job_of())
    assert squared(model, *line_data()[0]).item() < before / 1000  # type: ignore[arg-type]
    assert trained == Trained(160, 160 * 16, 1.0, trained.loss)
    assert not model.training


def test_the_same_seed_gives_the_same_weights_with_dropout_and_shuffled_data() -> None:
    class Shuffled(Unsized):
        def __iter__(self) -> Iterator[Batch]:
            return (self.data[i] for i in torch.randperm(len(self.data)).tolist())

    def run(seed: int) -> Tensor:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        fit_(model, Shuffled(line_data()), squared, EASY, job_of(seed=seed))
        return weights(model)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_the_callers_random_state_and_threads_are_as_before() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    model, job = nn.Linear(3, 1), job_of()
    torch.set_rng_state(state)
    fit_(model, line_data(), squared, EASY, job)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def paced(
    monkeypatch: pytest.MonkeyPatch, data: object, deadline_s: float | None, epochs: int = 100
) -> tuple[list[float], float, Trained]:
    """The learning rate of each step where every step takes one second, the time that passed, and the outcome."""
    clock, rates = Clock(), []

    def one_second(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        if rates:  # the rehearsal is over
            clock.time_s += 1.0
        return squared(model, inputs, targets, share)

    monkeypatch.setattr("paring.train.loop.set_learning_rate_", lambda _, rate: rates.append(rate))
    job = replace(job_of(), deadline_s=None if deadline_s is None else clock.time_s + deadline_s)
    trained = fit_(linear(), data, one_second, replace(EASY, epochs=epochs), job, now=clock)  # type: ignore[arg-type]
    return rates, clock.time_s - 1000.0, trained


def test_the_deadline_is_kept_and_the_rate_is_down_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, passed_s, trained = paced(monkeypatch, line_data(), 40.0)
    assert passed_s == 40.0
    assert trained.steps == len(rates) == 40
    assert trained.share == pytest.approx(40 / 800)
    assert max(rates) == pytest.approx(EASY.learning_rate, rel=0.02)
    assert rates[-1] < 0.01 * EASY.learning_rate


def test_data_without_a_length_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def __iter__(self) -> Iterator[Batch]:
            return (line_data(1)[0] for _ in count())

    rates, passed_s, _ = paced(monkeypatch, Endless(), 30.0, epochs=1)
    assert passed_s == 30.0
    assert rates[-1] < 0.01 * EASY.learning_rate


class Stream(torch.utils.data.IterableDataset[Batch]):
    """Rows without a length, as a loader over it has none: asking for it raises TypeError."""

    def __iter__(self) -> Iterator[Batch]:
        return ((x[0], y[0]) for x, y in line_data(640, 1))


@pytest.mark.parametrize(
    "data", [line_data(), Unsized(line_data()), torch.utils.data.DataLoader(Stream(), batch_size=80)]
)
def test_without_a_deadline_the_steps_decide(monkeypatch: pytest.MonkeyPatch, data: object) -> None:
    rates, _, trained = paced(monkeypatch, data, None, epochs=5)
    assert trained.steps == 40
    assert trained.share == 1.0
    assert max(rates) == pytest.approx(EASY.learning_rate, rel=0.02)
    assert rates[0] > 0
    assert rates[-1] < 0.01 * EASY.learning_rate


def test_an_epoch_shorter_than_announced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boasting(Unsized):
        def __len__(self) -> int:
            return 100

    rates, _, trained = paced(monkeypatch, Boasting(line_data()), None, epochs=5)
    assert trained.steps == 40
    assert trained.share == 1.0
    assert rates[-1] < 0.01 * EASY.learning_rate


def test_a_deadline_that_is_over_leaves_nothing_to_return() -> None:
    clock = Clock()
    job = replace(job_of(), deadline_s=clock.time_s - 1)
    with pytest.raises(TimeUpError, match="no training step fits before the deadline"):
        fit_(linear(), line_data(), squared, EASY, job, now=clock)


def diverging(at: set[int]) -> tuple[object, list[int]]:
    """A loss that is NaN at those calls; call 0 (and 1, with bfloat16 or not) is the rehearsal."""
    calls: list[int] = []

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        calls.append(len(calls))
        value = squared(model, inputs, targets, share)
        return value * float("nan") if calls[-1] in at else value

    return loss, calls


def test_one_nan_loss_goes_on_from_the_last_good_weights_with_smaller_steps() -> None:
    said: list[str] = []
    loss, _ = diverging({10})
    model = linear()
    fit_(model, line_data(), loss, EASY, replace(job_of(), say=said.append))  # type: ignore[arg-type]
    assert torch.isfinite(weights(model)).all()
    assert any("not finite at step" in line for line in said)


def test_a_second_nan_loss_ends_it_at_the_last_good_weights() -> None:
    loss, _ = diverging({10, 14})
    model = linear()
    with pytest.raises(TechniqueError, match=r"diverged again at 0\.1 of its learning rate .*smaller learning_rate"):
        fit_(model, line_data(), loss, EASY, job_of())  # type: ignore[arg-type]
    assert torch.isfinite(weights(model)).all()
    assert not model.training


def test_an_infinite_gradient_never_reaches_the_weights() -> None:
    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(_: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(_: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * float("inf")

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        return Spike.apply(squared(model, inputs, targets, share))  # type: ignore[no-any-return,no-untyped-call]

    model = linear()
    before = weights(model)
    with pytest.raises(TechniqueError, match="the gradient at step 2 of epoch 1 is not finite"):
        fit_(model, line_data(), loss, EASY, job_of())
    assert torch.equal(weights(model), before)


def test_nan_in_the_data_is_the_datas_fault() -> None:
    data = line_data()
    data[4][0][2, 1] = float("nan")  # type: ignore[index]
    with pytest.raises(TaskError, match="NaN or infinity in the batch of step 5 of epoch 1"):
        fit_(linear(), data, squared, EASY, job_of())


def test_empty_data_is_refused() -> None:
    with pytest.raises(TaskError, match="train is empty"):
        fit_(linear(), [], squared, EASY, job_of())


def test_data_that_ends_after_one_pass_is_refused() -> None:
    class Once(Unsized):
        def __iter__(self) -> Iterator[Batch]:
            data, self.data = self.data, []
            return iter(data)

        def __len__(self) -> int:
            return 8

    with pytest.raises(TaskError, match="no batch in epoch 2"):
        fit_(linear(), Once(line_data()), squared, EASY, job_of())


def test_data_that_raises_is_told_with_its_place() -> None:
    class Broken(Unsized):
        def __iter__(self) -> Iterator[Batch]:
            yield from self.data[:3]
            raise KeyError("gone.png")

        def __len__(self) -> int:
            return 8

    with pytest.raises(TaskError, match=r"epoch 1 of train failed after batch 3: KeyError: 'gone.png'"):
        fit_(linear(), Broken(line_data()), squared, EASY, job_of())


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (torch.zeros(4, 3), "is a Tensor: give pairs"),
        (((), None), "has no inputs"),
        ((np.zeros((4, 3)), None), "holds a ndarray where a tensor belongs"),
        ((torch.zeros(4, 3), ["a", "b", "c", "d"]), "has targets that are strings: give numbers"),
    ],
)
def test_a_malformed_batch_is_refused(batch: Any, told: str) -> None:
    with pytest.raises(TaskError, match=rf"batch 0 of epoch 1 of train {told}"):
        fit_(linear(), [batch], squared, EASY, job_of())


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_loss_that_raises_is_told(precision: Precision) -> None:
    def failing(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        raise IndexError("no such class")

    with pytest.raises(TaskError, match="the first training step fails: IndexError: no such class"):
        fit_(linear(), line_data(), failing, replace(EASY, precision=precision), job_of())


def test_a_loss_for_each_row_is_refused() -> None:
    def each_row(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        return (model(inputs) - targets).square().mean(1)

    with pytest.raises(TaskError, match=r"the loss has shape \(16,\)"):
        fit_(linear(), line_data(), each_row, EASY, job_of())


def test_a_row_left_over_does_not_break_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    rest = (torch.ones(1, 3), torch.ones(1, 1))
    assert fit_(model, [*line_data(2), rest], squared, replace(EASY, epochs=2), job_of()).steps == 4
    with pytest.raises(TaskError, match="single row"):
        fit_(model, [rest], squared, EASY, job_of())


def test_a_network_that_bfloat16_fails_on_is_trained_in_float32() -> None:
    class Picky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if y.dtype == torch.bfloat16:
                raise RuntimeError("not implemented for 'BFloat16'")
            return y

    said: list[str] = []
    trained = fit_(Picky(3, 1), line_data(), squared, EASY, replace(job_of(), say=said.append))
    assert trained.steps == 24
    assert any("float32" in line for line in said) is has_bf16(torch.device("cpu"))


def test_frozen_parameters_stay_and_all_frozen_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    before = weights(model[0])
    fit_(model, line_data(), squared, EASY, job_of())
    assert torch.equal(weights(model[0]), before)
    with pytest.raises(TechniqueError, match="no trainable parameter"):
        fit_(model.requires_grad_(False), line_data(), squared, EASY, job_of())


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_optimizer_learns(optimizer: Optimizer) -> None:
    model = linear()
    before = squared(model, *line_data()[0]).item()  # type: ignore[arg-type]
    training = Training(40, 0.05, weight_decay=0.0, optimizer=optimizer, precision="float32")
    fit_(model, line_data(), squared, training, job_of())
    assert squared(model, *line_data()[0]).item() < before / 100  # type: ignore[arg-type]


def test_an_optimizer_of_one_s_own_has_the_schedule_s_rate() -> None:
    made: list[torch.optim.Optimizer] = []

    def nadam(groups: Groups) -> torch.optim.Optimizer:
        made.append(torch.optim.NAdam(groups))
        return made[-1]

    model = linear()
    before = weights(model)
    fit_(model, line_data(), squared, replace(EASY, optimizer=nadam, schedule="constant", learning_rate=0.03), job_of())
    assert [group["lr"] for group in made[0].param_groups] == [0.03, 0.03]
    assert not torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("makes", "says"),
    [
        (lambda groups: 1 / 0, "fails on groups of parameters: ZeroDivisionError"),
        (lambda groups: "adam", "makes a str: return a torch.optim.Optimizer"),
        (lambda groups: torch.optim.LBFGS(groups[0]["params"]), "needs no closure"),
    ],
)
def test_an_optimizer_that_can_not_be_used_is_told(makes: Any, says: str) -> None:
    with pytest.raises(TechniqueError, match=f"optimizer=<lambda> .*{says}"):
        fit_(linear(), line_data(), squared, replace(EASY, optimizer=makes), job_of())


def test_a_class_is_no_function_that_makes_an_optimizer() -> None:
    with pytest.raises(TechniqueError, match=r"optimizer=NAdam is a class: give a function, as lambda groups: NAdam"):
        replace(EASY, optimizer=torch.optim.NAdam)


class Noted(Constraint):
    """Keeps the weights after each step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def settle_(self) -> None:
        self.seen.append(weights(self.model))

    def finish_(self) -> None:
        """The end is no step."""


def test_several_batches_that_make_a_step_are_one_large_batch() -> None:
    exact = replace(EASY, precision="float32", schedule="constant", warmup=0.0)
    apart, together, data = linear(), linear(), line_data()
    pairs = zip(data[::2], data[1::2], strict=True)
    joined: list[Batch] = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in pairs]  # type: ignore[misc]
    assert fit_(apart, data, squared, replace(exact, accumulate=2), job_of()).steps == 24
    assert fit_(together, joined, squared, exact, job_of()).steps == 12
    torch.testing.assert_close(weights(apart), weights(together))


def test_batches_that_are_left_at_the_end_make_a_step_too() -> None:
    model = linear()
    noted = Noted(model)
    fit_(model, line_data(7), squared, replace(EASY, epochs=1, accumulate=3), job_of(), constraint=noted)
    assert len(noted.seen) == 3
    assert not torch.equal(noted.seen[1], noted.seen[2])
    assert torch.equal(noted.seen[2], weights(model))


def test_averaged_weights_are_the_mean_of_the_last_ones() -> None:
    model = linear()
    noted = Noted(model)
    fit_(model, line_data(), squared, replace(EASY, averaged=0.25), job_of(), constraint=noted)
    assert len(noted.seen) == 24
    torch.testing.assert_close(weights(model), torch.stack(noted.seen[18:]).mean(0))
    assert not torch.equal(weights(model), noted.seen[-1])


def test_norms_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    fit_(
        model,
        line_data(),
        lambda model, inputs, *_: 0 * model(inputs).sum(),
        replace(EASY, weight_decay=0.5),
        job_of(),
    )
    torch.testing.assert_close(model[1].weight, torch.ones(3), rtol=0, atol=0)
    assert model[0].weight.abs().max() < 0.57


def test_progress_tells_share_loss_speed_and_time_left() -> None:
    clock, said = Clock(), []

    def slow(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        clock.time_s += 3.0
        return squared(model, inputs, targets, share)

    fit_(linear(), line_data(), slow, EASY, replace(job_of(), say=said.append), now=clock)
    assert len(said) == 12
    assert said[0].startswith("training 8% (epoch 1/3), loss ")
    assert "rows/s" in said[0]
    assert said[-1].endswith("0 s left")


def test_ctrl_c_passes_through_and_leaves_the_network_usable() -> None:
    calls = count()

    def interrupted(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        if next(calls) == 10:
            raise KeyboardInterrupt
        return squared(model, inputs, targets, share)

    model = linear()
    with pytest.raises(KeyboardInterrupt):
        fit_(model, line_data(), interrupted, EASY, job_of())
    assert not model.training
    assert_no_thread_left()


def assert_no_thread_left() -> None:
    for thread in threading.enumerate():
        if thread.name == "paring-prefetch":
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_batches_ahead_come_in_order_and_the_thread_ends() -> None:
    data = line_data(6)
    drawn = list(prefetched(epochs_of(data, 2), lambda: False))
    assert [(item.epoch, item.step) for item in drawn] == [(e, s) for e in range(2) for s in range(6)]
    assert all(item.batch[0] is data[item.step][0] for item in drawn)
    source = prefetched(epochs_of(data, 100), lambda: False)
    next(source)
    source.close()  # type: ignore[attr-defined]
    assert_no_thread_left()


def test_slow_data_is_drawn_ahead_and_does_not_hold_the_deadline_up() -> None:
    woken = threading.Event()

    class Stuck(Unsized):
        def __iter__(self) -> Iterator[Batch]:
            yield self.data[0]
            time.sleep(0.3)
            yield self.data[1]
            woken.wait(60)

        def __len__(self) -> int:
            return 100

    job = replace(job_of(), deadline_s=time.monotonic() + 1.0)
    assert fit_(linear(), Stuck(line_data()), squared, EASY, job).steps == 2
    woken.set()


def test_data_that_is_at_hand_is_drawn_without_a_thread() -> None:
    seen: set[str] = set()

    class Watched(Unsized):
        def __iter__(self) -> Iterator[Batch]:
            for batch in self.data:
                seen.add(threading.current_thread().name)
                yield batch

        def __len__(self) -> int:
            return len(self.data)

    def slow(model: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> Tensor:
        time.sleep(0.02)
        return squared(model, inputs, targets, share)

    fit_(linear(), Watched(line_data(12)), slow, EASY, job_of())
    assert seen == {threading.current_thread().name}
