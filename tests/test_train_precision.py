"""Training in bfloat16 and float16: the loss is scaled where gradients would vanish, and overflow costs a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from paring import registry
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.techniques import FineTune, IterativePruning
from paring.techniques.base import TrainingTechnique
from paring.train.loop import fit_
from paring.train.precision import has_bf16, narrow_type
from paring.train.scaling import GROW_AFTER, START, LossScale
from paring.train.settings import Precision, Training
from paring.types import Batch, Task

HALF = Training(epochs=3, learning_rate=0.05, weight_decay=0.0, precision="float16")
STEEP = replace(HALF, learning_rate=5e-5, clip_norm=1e30)
LINE = torch.tensor([[1.0], [-2.0], [0.5]])
TRAININGS = [
    technique
    for name in registry.names("technique")
    if issubclass(technique := registry.find("technique", name), TrainingTechnique)
]


def line_data(batches: int = 8, rows: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(rows, 3, generator=generator) for _ in range(batches)]
    return [(x, x @ LINE) for x in inputs]


def squared(model: nn.Module, inputs: Any, targets: Any, share: float = 0.0) -> Tensor:
    return mse_loss(model(inputs).float(), targets)


def steep(model: nn.Module, inputs: Any, targets: Any, share: float) -> Tensor:
    """The same minimum with a gradient that overflows float16 until the scale has come down."""
    return 1000 * squared(model, inputs, targets, share)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def job_of(said: list[str] | None = None, seed: int = 0) -> Job:
    job = Job.of(Task(linear().eval(), line_data(1)), seed=seed, threads=1)
    return job if said is None else replace(job, say=said.append)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def error(model: nn.Module) -> float:
    return max(squared(model, *batch).item() for batch in line_data())


class Spike(torch.autograd.Function):
    """The same value, with a gradient that is infinite."""

    @staticmethod
    def forward(_: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("inf")


def spiked(steps: set[int]) -> Any:
    """A loss whose gradient is infinite in these steps, counted from 1; the rehearsal comes before them."""
    calls = iter(range(10_000))

    def loss(model: nn.Module, inputs: Any, targets: Any, share: float) -> Tensor:
        value = squared(model, inputs, targets, share)
        return Spike.apply(value) if next(calls) in steps else value  # type: ignore[no-any-return,no-untyped-call]

    return loss


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_it_comes_to_what_float32_comes_to(precision: Precision) -> None:
    narrow, wide = linear(), linear()
    trained = fit_(narrow, line_data(), squared, replace(HALF, epochs=20, precision=precision), job_of())
    fit_(wide, line_data(), squared, replace(HALF, epochs=20, precision="float32"), job_of())
    assert trained.steps == 160
    torch.testing.assert_close(weights(narrow), weights(wide), rtol=0, atol=0.01)
    assert not torch.equal(weights(narrow), weights(wide))
    assert all(value.dtype == torch.float32 for value in narrow.parameters())
    assert error(narrow) < 1e-3


def test_an_overflow_halves_the_scale_leaves_the_weights_and_goes_on() -> None:
    said: list[str] = []
    model = linear()
    fit_(model, line_data(), steep, replace(STEEP, epochs=20), job_of(said))
    overflows = [line for line in said if "overflows float16" in line]
    scales = [float(line.rsplit(" ", 1)[1]) for line in overflows]
    assert overflows[0] == (
        "the gradient overflows float16 at step 1 of epoch 1: on without this step, the loss scaled by 32768"
    )
    assert scales == [START / 2 ** (i + 1) for i in range(len(scales))]
    assert len(overflows) < 16
    assert not any("not finite" in line for line in said)
    assert error(model) < 1e-2


def test_a_step_that_overflows_changes_nothing() -> None:
    model = linear()
    before = weights(model)
    fit_(model, line_data(2), spiked({1, 2}), replace(HALF, epochs=1), job_of())
    assert torch.equal(weights(model), before)


def test_small_gradients_do_not_vanish() -> None:
    """In float16 nothing lies between 0 and 6e-8."""

    def faint(model: nn.Module, inputs: Any, targets: Any, share: float) -> Tensor:
        return 1e-8 * squared(model, inputs, targets, share)

    model = linear()
    fit_(model, line_data(), faint, replace(HALF, epochs=20, learning_rate=5e6), job_of())
    assert error(model) < 1e-3


@pytest.mark.parametrize("clip_norm", [5.0, 0.01])
def test_the_gradient_is_clipped_as_if_the_loss_were_not_scaled(clip_norm: float) -> None:
    def gentle(model: nn.Module, inputs: Any, targets: Any, share: float) -> Tensor:
        return 0.01 * squared(model, inputs, targets, share)

    one_step = replace(HALF, epochs=1, clip_norm=clip_norm, warmup=0.0, learning_rate=5.0)
    moved = []
    for precision in ("float16", "float32"):
        model = linear()
        before = weights(model)
        fit_(model, line_data(1), gentle, replace(one_step, precision=precision), job_of())
        moved.append(weights(model) - before)
    torch.testing.assert_close(moved[0], moved[1], rtol=0.01, atol=1e-6)


def test_a_gradient_that_no_scale_makes_finite_is_a_divergence() -> None:
    said: list[str] = []
    model = linear()
    before = weights(model)
    told = r"diverged again at 0\.1 .*the gradient at step 2 of epoch 3 .*learning_rate or precision='float32'"
    with pytest.raises(TechniqueError, match=told):
        fit_(model, line_data(), spiked(set(range(1, 100))), HALF, job_of(said))
    assert len([line for line in said if "overflows float16" in line]) == 16
    assert len([line for line in said if "not finite at step 1 of epoch 3" in line]) == 1
    assert torch.equal(weights(model), before)


def test_the_same_seed_gives_the_same_weights_with_overflows() -> None:
    def run(seed: int) -> Tensor:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        fit_(model, line_data(), steep, STEEP, job_of(seed=seed))
        return weights(model)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.isfinite(run(3)).all()


def test_zeros_stay_zero_through_steps_that_overflow() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight[:, 1] = 0
    fit_(model, line_data(), steep, STEEP, job_of())
    assert not model[0].weight[:, 1].any()
    assert model[0].weight[:, 0].all()


class Wide(nn.Linear):
    """What it multiplies is far above the largest number of float16."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(1e4 * x) * 1e4 / 1e8


class Picky(nn.Linear):
    """Has no kernel for float16."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.dtype == torch.float16:
            raise NotImplementedError("not implemented for 'Half'")
        return y


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Wide(3, 1), "the loss of the first step is not finite"),
        (Picky(3, 1), "NotImplementedError: not implemented for 'Half'"),
    ],
)
def test_a_network_that_float16_fails_on_is_trained_in_float32(model: nn.Module, reason: str) -> None:
    said: list[str] = []
    assert fit_(model, line_data(), squared, HALF, job_of(said)).steps == 24
    assert said[0] == f"training in float32, because float16 fails: {reason}"
    assert torch.isfinite(weights(model)).all()


def test_the_scale_doubles_after_good_steps_in_a_row_and_halves_to_one() -> None:
    scale = LossScale(torch.float16)
    for _ in range(GROW_AFTER - 1):
        scale.good()
    assert scale.halved()
    for _ in range(GROW_AFTER - 1):
        scale.good()
    assert scale.factor == START / 2
    scale.good()
    assert scale.factor == START
    while scale.halved():
        pass
    assert scale.factor == 1


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_without_float16_nothing_is_scaled(dtype: torch.dtype | None) -> None:
    scale = LossScale(dtype)
    for _ in range(GROW_AFTER):
        scale.good()
    assert not scale.halved()
    assert scale.factor == 1


def test_auto_is_bfloat16_where_the_device_multiplies_it() -> None:
    device = torch.device("cpu")
    assert narrow_type("auto", device) is (torch.bfloat16 if has_bf16(device) else None)
    assert narrow_type("bfloat16", device) is torch.bfloat16
    assert narrow_type("float16", device) is torch.float16
    assert narrow_type("float32", device) is None


@pytest.mark.parametrize("technique", TRAININGS)
def test_every_training_takes_the_precision(technique: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def watched(*args: Any, **_: Any) -> None:
        seen.append(args[3].precision)
        raise KeyboardInterrupt

    monkeypatch.setattr("paring.techniques.fine_tune.fit_", watched)
    task = Task(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), line_data(1), train=line_data())
    with pytest.raises(KeyboardInterrupt):
        technique(epochs=4, precision="float16").apply(task.model, Job.of(task, threads=1))
    assert seen == ["float16"]
    with pytest.raises(TechniqueError) as told:
        technique(precision="fp16")
    assert str(told.value) == "precision='fp16' is unknown: choose one of auto, float32, bfloat16, float16."
    with pytest.raises(TechniqueError, match=r"precision='fp16' is unknown: choose one of auto, float32"):
        Training(1, 0.1, precision="fp16")  # type: ignore[arg-type]


def test_what_follows_a_training_keeps_its_precision() -> None:
    assert FineTune(precision="float16").bare(2).precision == "float16"
    assert IterativePruning(precision="float16").continued(2).precision == "float16"
