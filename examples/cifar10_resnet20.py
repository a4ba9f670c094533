"""ResNet-20 on CIFAR-10 with trained weights: `paring optimize examples/cifar10_resnet20.py --out out/cifar10`.

Needs a folder with `cifar10.npz` (x_train, y_train, x_test, y_test; uint8 images as rows, height, width, channels) and
the weights of github.com/akamaster/pytorch_resnet_cifar10; the environment variable PARING_DATA names it (default:
~/.cache/paring).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from paring.errors import TaskError
from paring.types import Task

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])
WEIGHTS = Path("models") / "cifar10_resnet20" / "resnet20-12fca82f.th"
SIDE, MARGIN = 32, 4


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of He et al. 2015)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - channels_in) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.shortcut(x))


def stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Block(channels_in, channels, stride), Block(channels, channels, 1), Block(channels, channels, 1)
    )


class ResNet20(nn.Module):
    """(rows, 3, 32, 32) -> (rows, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, 1)
        self.layer2 = stage(16, 32, 2)
        self.layer3 = stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


class Plain:
    """Images as they are, in order, in batches."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int = 250) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = zip(torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size), strict=True)
        for images, labels in pairs:
            yield normalised(images), labels


class Augmented:
    """Shuffled batches, each image shifted by up to 4 pixels and mirrored half the time; full batches only.

    Every pass draws anew from torch's own generator, which a training seeds.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int = 128) -> None:
        self.labels, self.batch_size = labels, batch_size
        rows = len(images)
        self.padded = (MEAN * 255).round().byte().repeat(rows, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 1)
        self.padded[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = images

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels))[: len(self) * self.batch_size]
        for rows in torch.split(order, self.batch_size):
            yield self.crop(rows), self.labels[rows]

    def crop(self, rows: Tensor) -> Tensor:
        count, window = len(rows), torch.arange(SIDE)
        top, left = torch.randint(0, 2 * MARGIN + 1, (2, count, 1))
        mirror = torch.rand(count, 1) < 0.5
        y, x = top + window, left + torch.where(mirror, window.flip(0), window)
        return normalised(self.padded[rows[:, None, None], y[:, :, None], x[:, None, :]])


def normalised(images: Tensor) -> Tensor:
    """uint8 (rows, height, width, 3) -> float32 (rows, 3, height, width)."""
    return images.float().div_(255).sub_(MEAN).div_(STD).permute(0, 3, 1, 2).contiguous()


def data_folder() -> Path:
    folder = Path(os.environ.get("PARING_DATA", "~/.cache/paring")).expanduser()
    for file in (folder / "cifar10.npz", folder / WEIGHTS):
        if not file.is_file():
            raise TaskError(f"{file} is missing: set PARING_DATA to the folder that holds CIFAR-10 and the weights.")
    return folder


def trained_network(folder: Path) -> ResNet20:
    saved: dict[str, Any] = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    network = ResNet20()
    network.load_state_dict({name.removeprefix("module."): value for name, value in saved["state_dict"].items()})
    return network.eval()


def task() -> Task:
    folder = data_folder()
    with np.load(folder / "cifar10.npz") as data:
        images, labels = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"]).long()
        test_images, test_labels = torch.from_numpy(data["x_test"]), torch.from_numpy(data["y_test"]).long()
    return Task(
        model=trained_network(folder),
        evaluate=Plain(test_images, test_labels),
        train=Augmented(images, labels),
        calibrate=Plain(images[:2000], labels[:2000]),
        name="cifar10-resnet20",
    )
