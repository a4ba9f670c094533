"""The loss of a student whose teacher is the original network."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paring.data.batches import mapped, model_call, sample, tensors_of
from paring.data.job import Job
from paring.errors import DataError, TaskError, TechniqueError
from paring.ops.distillation import (
    as_logits,
    cosine_gap,
    holds_class_scores,
    holds_probabilities,
    scaled_mse,
    soft_cross_entropy_gap,
)
from paring.train.mixing import MIXINGS, Mixing, can_mix, mixed
from paring.train.precision import device_of, is_convolutional, placed, with_layout_
from paring.types import Batch

Distillation = Literal["auto", "kl", "mse", "cosine"]
DISTILLATIONS: tuple[Distillation, ...] = ("auto", "kl", "mse", "cosine")
MIXED_SHARE = 0.5
IGNORED_LABEL = -100
"""PyTorch's own mark for positions that have no label."""


@dataclass(frozen=True)
class Teaching:
    """How the teacher teaches.

    loss = label_weight * task loss + (1 - label_weight) * distance to the teacher. Without labels, and on the half of
    the batches that are mixed, the teacher alone counts; with label_weight 1 the labels alone, and nothing is mixed.
    """

    distillation: Distillation = "auto"
    temperature: float = 4.0
    label_weight: float = 0.1
    mixing: Mixing = "mixup"

    def __post_init__(self) -> None:
        if self.distillation not in DISTILLATIONS:
            raise TechniqueError(
                f"distillation={self.distillation!r} is unknown: choose one of {', '.join(DISTILLATIONS)}."
            )
        if self.mixing not in MIXINGS:
            raise TechniqueError(f"mixing={self.mixing!r} is unknown: choose one of {', '.join(MIXINGS)}.")
        if not self.temperature > 0:
            raise TechniqueError(f"temperature={self.temperature} must be above 0, for example 4.")
        if not 0 <= self.label_weight <= 1:
            raise TechniqueError(f"label_weight={self.label_weight} must lie between 0 and 1.")


class Distiller:
    """The loss for `fit_`: (student, inputs, targets) -> ().

    "auto" compares class scores by their distributions, anything else by squared error in units of the teacher's own
    variance; several outputs add up. The teacher is a copy: the task's network is untouched.
    """

    def __init__(self, teaching: Teaching, job: Job) -> None:
        self.teaching, self.task_loss = teaching, job.task.loss
        self.teacher = copy.deepcopy(job.original).eval().requires_grad_(False)
        self._channels_last = is_convolutional(self.teacher)
        if self._channels_last:
            with_layout_(self.teacher, torch.channels_last)
        self._generator = torch.Generator().manual_seed(job.seed)
        self._read_kind(*_labelled_example(job))
        self._variances = self._read_variances(job.calibrate)
        self._mixes = teaching.label_weight < 1 and can_mix(job.calibrate[0][0], teaching.mixing)

    def __call__(self, student: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """The loss of one batch."""
        if self._mixes and bool(torch.rand((), generator=self._generator) < MIXED_SHARE):
            inputs, targets = mixed(inputs, self.teaching.mixing, self._generator), None
        outputs = _as_float(model_call(student, inputs))
        weight = 0.0 if targets is None else self.teaching.label_weight
        if weight == 0:
            return self._gap(outputs, inputs)
        if self.holds_classes:
            _check_labels(outputs, targets)
        labelled = self.task_loss(outputs, targets)
        return labelled if weight == 1 else weight * labelled + (1 - weight) * self._gap(outputs, inputs)

    def _read_kind(self, inputs: Any, targets: Any) -> None:
        """Settles what the outputs are: class scores, probabilities or anything else."""
        outputs = self._taught(placed(inputs, device_of(self.teacher), self._channels_last))
        self.holds_classes = (
            isinstance(outputs, Tensor) and isinstance(targets, Tensor) and holds_class_scores(outputs, targets.cpu())
        )
        self._probabilities = self.holds_classes and holds_probabilities(outputs)
        wanted = self.teaching.distillation
        self.distillation = wanted if wanted != "auto" else "kl" if self.holds_classes else "mse"

    def _read_variances(self, batches: Iterable[Batch]) -> list[float]:
        """How much the teacher's answers differ between rows, one number for each output."""
        device = device_of(self.teacher)
        answers = [_floating(self._taught(placed(inputs, device, self._channels_last))) for inputs, _ in batches]
        if not answers[0]:
            raise TaskError("the network has no floating-point output: there is nothing that a teacher could show.")
        return [_variance(values) for values in zip(*answers, strict=True)]

    @torch.no_grad()
    def _taught(self, inputs: Any) -> Any:
        return _as_float(model_call(self.teacher, inputs))

    def _gap(self, outputs: Any, inputs: Any) -> Tensor:
        pairs = zip(_floating(outputs), _floating(self._taught(inputs)), self._variances, strict=True)
        return torch.stack([self._distance(*pair) for pair in pairs]).sum()

    def _distance(self, student: Tensor, teacher: Tensor, variance: float) -> Tensor:
        if self.distillation == "mse":
            return scaled_mse(student, teacher, variance)
        if self.distillation == "cosine":
            return cosine_gap(student, teacher)
        if self._probabilities:
            student, teacher = as_logits(student), as_logits(teacher)
        return soft_cross_entropy_gap(student, teacher, self.teaching.temperature)


def _labelled_example(job: Job) -> Batch:
    """A batch with labels where there is one; `evaluate` is always labelled, training data may lack them."""
    labelled = (batch for batch in job.calibrate if batch[1] is not None)
    return next(labelled, None) or sample(job.task.evaluate)


def _check_labels(outputs: Tensor, targets: Tensor) -> None:
    classes = outputs.shape[-1]
    wrong = targets[((targets < 0) & (targets != IGNORED_LABEL)) | (targets >= classes)]
    if len(wrong):
        label = int(wrong.flatten()[0])
        raise DataError(f"train holds the label {label}, but the network has {classes} classes (0 to {classes - 1}).")


def _as_float(outputs: Any) -> Any:
    """Losses are summed in float32, whatever the network was multiplied in."""
    return mapped(outputs, lambda value: value.float() if value.is_floating_point() else value)


def _floating(outputs: Any) -> list[Tensor]:
    return [value for value in tensors_of(outputs) if value.is_floating_point()]


def _variance(batches: tuple[Tensor, ...]) -> float:
    """Mean over all places of the variance between rows; 1 where rows don't differ, as it will be divided by."""
    alike = [values for values in batches if values.shape[1:] == batches[0].shape[1:]]
    return float(torch.cat(alike).var(0, correction=0).mean()) or 1.0
