"""How far what a module inside a student gives lies from what the teacher's gives: (batch, ...), (batch, ...) -> ().

All are means over the rows, so that their size does not depend on the batch, and all but "contrast" are 0 where both
are alike. What is compared decides which shapes can be: the same, maps of one size whatever the channels, or any rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, smooth_l1_loss

FeatureDistance = Literal["values", "attention", "similarities", "distances", "angles", "contrast"]
Gap: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Part: TypeAlias = Callable[[Tensor], tuple[int, ...] | None]
"""What of a shape both need to have in common; None where such a shape can't be compared."""
CONTRAST_TEMPERATURE = 0.1
"""Tian et al. 2020, section 4: theirs are 0.07 and 0.1."""


def values_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over the variance of all that the teacher gives; both of one shape.

    Romero et al. 2015 (FitNets), eq. 3, in units that layers have in common, and without a projection. What a teacher
    that gives one number throughout teaches is in units of 1.
    """
    variance = teacher.var(correction=0)
    # Of a mean of squares the gradient comes in another memory format, which all that follows would pay for.
    distance: Tensor = torch.linalg.vector_norm(student - teacher)
    return distance.square() / (teacher.numel() * torch.where(variance > 0, variance, 1))


def attention_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the maps of squared values, each of length 1: where a layer looks, whatever its channels.

    Zagoruyko and Komodakis 2017, eq. 2 with p = 2, squared as in their code, and summed over the places. Channels are
    axis 1 of (batch, channels, h, w) and the last one of (batch, places, channels).
    """
    ours, theirs = (normalize(_map(values).flatten(1)) for values in (student, teacher))
    return (ours - theirs).square().sum(1).mean()


def similarities_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the rows' products with each other, those of each row brought to length 1.

    Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, eq. 4; times the batch, as only then it does not
    depend on it.
    """
    ours, theirs = (normalize(_rows(values) @ _rows(values).T) for values in (student, teacher))
    return (ours - theirs).square().sum(1).mean()


def distances_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the distances between rows, in units of their mean. Park et al. 2019, RKD, eq. 6 to 8."""
    ours, theirs = (_distances(_rows(values)) for values in (student, teacher))
    return smooth_l1_loss(ours, theirs, reduction="sum") / max(len(ours), 1)


def angles_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles between every three rows. Park et al. 2019, RKD, eq. 9 and 10.

    Takes memory for batch^3 numbers.
    """
    ours, theirs = (_cosines(_rows(values)) for values in (student, teacher))
    count = len(ours)
    return smooth_l1_loss(ours, theirs, reduction="sum") / max(count * (count - 1) * (count - 2), 1)


def contrast_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """How hard it is to tell a row's own teacher from those of the other rows of the batch; both of one shape.

    Cross-entropy of cosines / 0.1 (van den Oord et al. 2018, InfoNCE, eq. 4), as Tian et al. 2020 (CRD) contrast a
    student with its teacher; they keep a memory of thousands of other rows.
    """
    ours, theirs = (normalize(_rows(values)) for values in (student, teacher))
    return cross_entropy(ours @ theirs.T / CONTRAST_TEMPERATURE, torch.arange(len(ours), device=ours.device))


@dataclass(frozen=True)
class Comparison:
    """A distance, and which shapes it is for."""

    gap: Gap
    part: Part


def _map(values: Tensor) -> Tensor:
    """The mean of the squares over the channels."""
    return values.square().mean(2 if values.ndim == 3 else 1)


def _places(values: Tensor) -> tuple[int, ...] | None:
    """The shape of the map; None for rows, which have none."""
    if values.ndim == 3:
        return tuple(values.shape[:2])
    return (len(values), *values.shape[2:]) if values.ndim > 2 else None


def _rows(values: Tensor) -> Tensor:
    return values.flatten(1)


def _distances(rows: Tensor) -> Tensor:
    """Between any two rows, (pairs,), over their mean."""
    found = torch.pdist(rows)
    return found / (found.sum() / max(len(found), 1)).clamp_min(torch.finfo(found.dtype).tiny)


def _cosines(rows: Tensor) -> Tensor:
    """(batch, batch, batch): at row j, between the directions of the rows i and k; 0 where two of them are one."""
    centred = rows - rows.mean(0)
    steps = centred @ centred.T
    own = steps.diagonal()
    # <i - j, k - j> at [j, i, k], from products alone: the differences themselves may be far too many.
    products = steps[None] - steps[:, :, None] - steps[:, None, :] + own[:, None, None]
    squares = products.diagonal(dim1=1, dim2=2).clamp_min(0)
    lengths = torch.where(squares > 0, squares, 1).sqrt()
    cosines = products / (lengths[:, :, None] * lengths[:, None, :])
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return cosines * (apart[:, :, None] & apart[:, None, :] & apart[None])


COMPARISONS: Mapping[FeatureDistance, Comparison] = MappingProxyType(
    {
        "values": Comparison(values_gap, lambda values: tuple(values.shape)),
        "attention": Comparison(attention_gap, _places),
        "similarities": Comparison(similarities_gap, lambda values: tuple(values.shape[:1])),
        "distances": Comparison(distances_gap, lambda values: tuple(values.shape[:1])),
        "angles": Comparison(angles_gap, lambda values: tuple(values.shape[:1])),
        "contrast": Comparison(contrast_gap, lambda values: tuple(values.shape)),
    }
)
