"""scikit-learn's digits with a small residual network that is trained on the spot, in seconds.

`paring optimize examples/digits.py --out out/digits`; `make demo` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from paring.types import Task

EVALUATE_ROWS = 897
EPOCHS = 16


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(x + y)


class DigitsNet(nn.Module):
    """(rows, 1, 8, 8) -> (rows, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.stage1 = nn.Sequential(Block(32, 32), Block(32, 32))
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.stage2 = nn.Sequential(Block(64, 64), Block(64, 64))
        self.classify = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.classify(x.mean((2, 3)))  # type: ignore[no-any-return]


class Plain:
    """Images as they are, in order, in batches."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int = 128) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size), strict=True)


class Shifted:
    """Shuffled batches of images, each moved by up to one pixel.

    Every pass draws anew from torch's own generator, which a training seeds.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int = 50) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.padded = nn.functional.pad(images, (1, 1, 1, 1))

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        window = torch.arange(self.images.shape[-1])
        for rows in torch.split(torch.randperm(len(self.images)), self.batch_size):
            top, left = torch.randint(0, 3, (2, len(rows), 1))
            y, x = (top + window)[:, :, None], (left + window)[:, None, :]
            yield self.padded[rows[:, None, None], 0, y, x].unsqueeze(1), self.labels[rows]


def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images (rows, 1, 8, 8), scaled to 0..1, and their labels, shuffled by a fixed seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float().div(16).unsqueeze(1)
    return images[order], torch.from_numpy(data.target).long()[order]


def trained_network(train: Shifted, epochs: int = EPOCHS) -> DigitsNet:
    threads = torch.get_num_threads()
    # So small a network gains nothing from a second thread, and on a busy machine waits for it.
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DigitsNet().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=epochs, steps_per_epoch=len(train))
        for _ in range(epochs):
            for images, labels in train:
                optimizer.zero_grad()
                torch.autograd.backward(cross_entropy(network(images), labels))
                optimizer.step()
                schedule.step()
    torch.set_num_threads(threads)
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]


def task() -> Task:
    images, labels = digits()
    held_out = Plain(images[:EVALUATE_ROWS], labels[:EVALUATE_ROWS])
    train_images, train_labels = images[EVALUATE_ROWS:], labels[EVALUATE_ROWS:]
    train = Shifted(train_images, train_labels)
    return Task(
        model=trained_network(train),
        evaluate=held_out,
        train=train,
        calibrate=Plain(train_images, train_labels),
        name="digits",
    )
