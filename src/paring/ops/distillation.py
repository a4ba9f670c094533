"""How far a student's answers lie from its teacher's: losses of shape (), and whether answers are class scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div

SMALLEST_PROBABILITY = 1e-7


def soft_cross_entropy_gap(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over all but the class axis.

    (batch, ..., classes), (batch, ..., classes) -> (). Hinton, Vinyals, Dean 2015, section 2: the factor T^2 keeps the
    size of the gradient as T grows. They write the cross-entropy, which differs by the teacher's entropy, a constant.
    """
    ours, theirs = (scores.flatten(0, -2).div(temperature).log_softmax(-1) for scores in (student, teacher))
    return kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def scaled_mse(student: Tensor, teacher: Tensor, variance: float | Tensor) -> Tensor:
    """Mean squared difference in units of `variance`: the share of the teacher's variation that the student misses.

    (batch, ...), (batch, ...) -> ().
    """
    return (student - teacher).square().mean() / variance


def cosine_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine similarity along the last axis, mean over the others: (batch, ..., n), (batch, ..., n) -> ()."""
    return 1 - cosine_similarity(student, teacher, dim=-1).mean()


def holds_class_scores(outputs: Tensor, targets: Tensor) -> bool:
    """True where the last axis of `outputs` is classes and `targets` are their indices.

    (batch, ..., classes) against integers of shape (batch, ...). A single column is a number, not a choice.
    """
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    return whole and outputs.ndim >= 2 and outputs.shape[-1] > 1 and targets.shape == outputs.shape[:-1]


def holds_classes(outputs: Any, targets: Any) -> bool:
    """True where both are tensors, of class scores and of their indices."""
    return isinstance(outputs, Tensor) and isinstance(targets, Tensor) and holds_class_scores(outputs, targets)


def holds_probabilities(outputs: Tensor) -> bool:
    """True where every row along the last axis is a distribution: a softmax is already part of the network."""
    sums = outputs.sum(-1)
    return bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def as_logits(outputs: Tensor) -> Tensor:
    """Probabilities as logits of the same shape; softmax gives them back."""
    return outputs.clamp_min(SMALLEST_PROBABILITY).log()
