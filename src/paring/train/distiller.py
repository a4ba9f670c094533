"""The loss of a student whose teacher is the original network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paring.data.batches import mapped, model_call, sample, tensors_of
from paring.data.checks import check_train_labels
from paring.data.job import Job
from paring.errors import TaskError, TechniqueError
from paring.graph.folding import folded
from paring.ops.distillation import (
    as_logits,
    cosine_gap,
    holds_classes,
    holds_probabilities,
    scaled_mse,
    soft_cross_entropy_gap,
)
from paring.settings import check_types
from paring.train.mixing import Mixing, can_mix, mixed
from paring.train.precision import device_of, is_convolutional, placed, with_layout_
from paring.types import Batch

Distillation = Literal["auto", "kl", "mse", "cosine"]
MIXED_SHARE = 0.5


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
        check_types(self)
        if not self.temperature > 0:
            raise TechniqueError(f"temperature={self.temperature} must be above 0, for example 4.")
        if not 0 <= self.label_weight <= 1:
            raise TechniqueError(f"label_weight={self.label_weight} must lie between 0 and 1.")


class Distiller:
    """The loss for `fit_`: (student, inputs, targets) -> ().

    "auto" compares an output of class scores by its distributions, any other by squared error in units of the teacher's
    own variance; several outputs add up. The teacher is a copy: the task's network is untouched.
    """

    def __init__(self, teaching: Teaching, job: Job) -> None:
        self.teaching, self.task_loss = teaching, job.task.loss
        self.teacher = _quick_to_answer(copy.deepcopy(job.original).eval(), job).requires_grad_(False)
        self._channels_last = is_convolutional(self.teacher)
        if self._channels_last:
            with_layout_(self.teacher, torch.channels_last)
        self._generator = torch.Generator().manual_seed(job.seed)
        outputs, targets = self._example(job)
        self._classes: int | None = tensors_of(outputs)[0].shape[-1] if holds_classes(outputs, targets) else None
        self._gaps = self._read_gaps(outputs, targets, job.calibrate)
        self._mixes = teaching.label_weight < 1 and can_mix(job.calibrate[0][0], teaching.mixing)

    def __call__(self, student: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """The loss of one batch. Raises DataError for a label out of range, also where the batch is to be mixed."""
        if targets is not None and self._classes is not None and self.teaching.label_weight > 0:
            check_train_labels(targets, self._classes)
        if self._mixes and bool(torch.rand((), generator=self._generator) < MIXED_SHARE):
            inputs, targets = mixed(inputs, self.teaching.mixing, self._generator), None
        outputs = _as_float(model_call(student, inputs))
        weight = 0.0 if targets is None else self.teaching.label_weight
        if weight == 0:
            return self._gap(outputs, inputs)
        labelled = self.task_loss(outputs, targets)
        return labelled if weight == 1 else weight * labelled + (1 - weight) * self._gap(outputs, inputs)

    @property
    def ranks(self) -> bool:
        """Whether the student learns distributions alone, of which the largest score counts and no exact number."""
        return all(gap.kind == "kl" for gap in self._gaps)

    def _example(self, job: Job) -> Batch:
        """The teacher's answers to a labelled batch, and its targets."""
        inputs, targets = _labelled_example(job)
        return self._taught(placed(inputs, device_of(self.teacher), self._channels_last)), targets

    def _read_gaps(self, outputs: Any, targets: Any, batches: Iterable[Batch]) -> list[Gap]:
        """How each output is compared, and how much the teacher's answers differ between rows there."""
        device = device_of(self.teacher)
        answers = [_floating(self._taught(placed(inputs, device, self._channels_last))) for inputs, _ in batches]
        if not answers[0]:
            raise TaskError("the network has no floating-point output: there is nothing that a teacher could show.")
        outputs, wanted = _floating(outputs), self.teaching.distillation
        classes = _class_outputs(outputs, tensors_of(targets))
        gaps = []
        for place, (output, values) in enumerate(zip(outputs, zip(*answers, strict=True), strict=True)):
            kind = wanted if wanted != "auto" else "kl" if place in classes else "mse"
            probabilities = place in classes and holds_probabilities(output)
            gaps.append(Gap(kind, probabilities, self.teaching.temperature, _variance(values)))
        return gaps

    @torch.no_grad()
    def _taught(self, inputs: Any) -> Any:
        return _as_float(model_call(self.teacher, inputs))

    def _gap(self, outputs: Any, inputs: Any) -> Tensor:
        pairs = zip(self._gaps, _floating(outputs), _floating(self._taught(inputs)), strict=True)
        return torch.stack([gap(student, teacher) for gap, student, teacher in pairs]).sum()


@dataclass(frozen=True)
class Gap:
    """How far one output of the student lies from the teacher's: (batch, ...), (batch, ...) -> ()."""

    kind: Distillation
    probabilities: bool
    temperature: float
    variance: float

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one batch."""
        if self.kind == "mse":
            return scaled_mse(student, teacher, self.variance)
        if self.kind == "cosine":
            return cosine_gap(student, teacher)
        if self.probabilities:
            student, teacher = as_logits(student), as_logits(teacher)
        return soft_cross_entropy_gap(student, teacher, self.temperature)


def _class_outputs(outputs: Sequence[Tensor], targets: Iterable[Tensor]) -> set[int]:
    """The places of outputs that hold class scores: for each target the first that fits, as hidden states may too."""
    fits = ((place for place, output in enumerate(outputs) if holds_classes(output, target)) for target in targets)
    return {place for each in fits if (place := next(each, None)) is not None}


def _quick_to_answer(teacher: nn.Module, job: Job) -> nn.Module:
    """The teacher without the batch norms that can be folded: its answers take a good part of each training step."""
    try:
        return folded(teacher, placed(job.calibrate[0][0], device_of(teacher), channels_last=False))
    except TechniqueError as error:
        job.say(f"the teacher keeps its batch norms: {error}")
        return teacher


def _labelled_example(job: Job) -> Batch:
    """A batch with labels where there is one: training data may lack them, what a job shows of `evaluate` does not."""
    labelled = (batch for batch in job.calibrate if batch[1] is not None)
    return next(labelled, None) or sample(job.task.evaluate)


def _as_float(outputs: Any) -> Any:
    """Losses are summed in float32, whatever the network was multiplied in."""
    return mapped(outputs, lambda value: value.float() if value.is_floating_point() else value)


def _floating(outputs: Any) -> list[Tensor]:
    return [value for value in tensors_of(outputs) if value.is_floating_point()]


def _variance(batches: tuple[Tensor, ...]) -> float:
    """Mean over all places of the variance between rows; 1 where rows don't differ, as it will be divided by."""
    alike = [values for values in batches if values.shape[1:] == batches[0].shape[1:]]
    return float(torch.cat(alike).var(0, correction=0).mean()) or 1.0
