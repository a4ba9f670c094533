"""Inputs between the inputs: rows of a batch blended or patched together, for a teacher to judge.

With a teacher no label is needed, so a mixed image has as good a target as a real one. Mixup: Zhang et al. 2017;
CutMix: Yun et al. 2019; the teacher sees the same mixed view as the student: Beyer et al. 2022.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from paring.data.batches import mapped, rows_in, tensors_of

Mixing = Literal["none", "mixup", "cutmix"]


def can_mix(inputs: Any, mixing: Mixing) -> bool:
    """True where all inputs are numbers between which others lie, and have an area to cut for cutmix."""
    tensors = tensors_of(inputs)
    smallest = 4 if mixing == "cutmix" else 2
    return mixing != "none" and all(t.is_floating_point() and t.ndim >= smallest for t in tensors)


def mixed(inputs: Any, mixing: Mixing, generator: torch.Generator) -> Any:
    """The same structure; each row has a share of another row, one share for the whole batch."""
    partner = torch.randperm(rows_in(inputs), generator=generator)
    share, *place = torch.rand(3, generator=generator).tolist()
    if mixing == "mixup":
        return mapped(inputs, lambda value: value.lerp(value[partner.to(value.device)], share))
    return mapped(inputs, lambda value: _patched(value, partner.to(value.device), share, place))


def _patched(images: Tensor, partner: Tensor, share: float, place: list[float]) -> Tensor:
    """(rows, ..., height, width): a window with that share of the area comes from the partner."""
    window = []
    for size, at in zip(images.shape[-2:], place, strict=True):
        side = round(size * share**0.5)
        start = round((size - side) * at)
        window.append(slice(start, start + side))
    patched = images.clone()
    patched[..., window[0], window[1]] = images[partner][..., window[0], window[1]]
    return patched
