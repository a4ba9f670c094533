"""Probes: the inputs on which a removal is proven, so that it does not rest on the luck of a few rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paring.data.batches import mapped, rows_in, tensors_of
from paring.errors import TechniqueError
from paring.graph.channels.verify import run
from paring.types import Batch, Inputs


def probes(model: nn.Module, sample: Inputs, batches: Sequence[Batch]) -> tuple[Inputs, ...]:
    """The sample, the last rows that are shaped as it is, and random rows in the range of all.

    The first rows of data may be blank, or all the same, and then many a wrong network gives what the right one gives.
    A network that can't run on random rows is not asked to.
    """
    drawn = _random(sample, batches)
    try:
        run(model, drawn)
    except TechniqueError:
        return (sample, *_last(sample, batches))
    return (sample, *_last(sample, batches), drawn)


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors_of(inputs)]


def _last(sample: Inputs, batches: Sequence[Batch]) -> list[Inputs]:
    """At most one."""
    rows = rows_in(sample)
    last = [mapped(inputs, lambda value: value[-rows:]) for inputs, _ in batches]
    return [inputs for inputs in last if _shapes(inputs) == _shapes(sample)][-1:]


def _random(sample: Inputs, batches: Sequence[Batch]) -> Inputs:
    """Rows shaped as the sample: each number of a tensor lies between the least and the largest of all batches."""
    generator = torch.Generator().manual_seed(0)
    columns = iter(zip(*(tensors_of(inputs) for inputs, _ in batches), strict=True))

    def draw(tensor: Tensor) -> Tensor:
        column = next(columns)
        if not tensor.numel():
            return tensor
        low, high = (min(float(t.min()) for t in column), max(float(t.max()) for t in column))
        unit = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        if not tensor.is_floating_point():
            return (low + unit * (high - low + 1)).floor().to(tensor.dtype)
        if not torch.isfinite(torch.tensor([low, high])).all():
            return tensor
        return (low + unit * (high - low or 1.0)).to(tensor.dtype)

    drawn: Inputs = mapped(sample, draw)
    return drawn
