"""The example tasks: what they hold is what their text says."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from paring.data.batches import rows_in
from paring.data.checks import check_task
from paring.errors import TaskError
from paring.types import Task

EXAMPLES = Path(__file__).parent.parent / "examples"
DATA = Path(os.environ.get("PARING_DATA", "~/.cache/paring")).expanduser()
needs_data = pytest.mark.skipif(
    not (DATA / "cifar10.npz").is_file(), reason=f"CIFAR-10 is not in {DATA}: set PARING_DATA"
)


@cache
def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def digits_task() -> Task:
    task: Task = example("digits").task()
    return task


def score(task: Task, most_batches: int = 100) -> float:
    right = []
    with torch.inference_mode():
        for _, (inputs, targets) in zip(range(most_batches), task.evaluate, strict=False):
            right.append(task.metric(task.model(inputs), targets))  # type: ignore[operator]
    return torch.cat(right).mean().item()


def test_digits_is_a_sound_task_with_a_good_network() -> None:
    task = digits_task()
    check_task(task, task.model)  # type: ignore[arg-type]
    assert score(task) > 0.97
    assert sum(rows_in(inputs) for inputs, _ in task.evaluate) == 897
    assert task.train is not None
    assert sum(rows_in(inputs) for inputs, _ in task.train) == 900


def test_digits_keeps_training_and_evaluation_apart() -> None:
    task = digits_task()
    assert task.calibrate is not None
    seen = {bytes(image.numpy().tobytes()) for inputs, _ in task.calibrate for image in inputs}  # type: ignore[union-attr]
    held_out = [bytes(image.numpy().tobytes()) for inputs, _ in task.evaluate for image in inputs]  # type: ignore[union-attr]
    assert len(seen) == 900
    assert not seen.intersection(held_out)


def test_digits_shifts_keep_the_strokes_and_draw_anew() -> None:
    train = digits_task().train
    assert train is not None
    torch.manual_seed(0)
    one, other = next(iter(train))[0], next(iter(train))[0]
    assert one.shape == (50, 1, 8, 8)  # type: ignore[union-attr]
    assert not torch.equal(one, other)  # type: ignore[arg-type]
    torch.manual_seed(0)
    assert torch.equal(next(iter(train))[0], one)  # type: ignore[arg-type]


def test_cifar10_without_data_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARING_DATA", str(tmp_path))
    with pytest.raises(TaskError, match=r"cifar10\.npz is missing: set PARING_DATA"):
        example("cifar10_resnet20").task()


def test_cifar10_crops_are_windows_of_the_padded_image() -> None:
    module = example("cifar10_resnet20")
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = module.Augmented(images, torch.arange(6), batch_size=3)
    assert len(train) == 2
    padded = module.normalised(train.padded)
    batches = list(train)
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(6))
    for crop, label in ((crop, label) for crops, labels in batches for crop, label in zip(crops, labels, strict=True)):
        windows = padded[label].unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        both = torch.cat([windows, windows.flip(-1)])
        assert (both == crop).flatten(1).all(1).sum() == 1


def test_cifar10_network_has_the_published_size() -> None:
    network = example("cifar10_resnet20").ResNet20().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@needs_data
def test_cifar10_is_a_sound_task_with_the_trained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARING_DATA", str(DATA))
    task: Task = example("cifar10_resnet20").task()
    check_task(task, task.model)  # type: ignore[arg-type]
    assert 0.88 < score(task, most_batches=4) < 0.95
    assert len(task.evaluate) == 40  # type: ignore[arg-type]
    assert task.train is not None
    inputs, targets = next(iter(task.train))
    assert inputs.shape == (128, 3, 32, 32)  # type: ignore[union-attr]
    assert targets.shape == (128,)  # type: ignore[union-attr]
