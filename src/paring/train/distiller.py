"""The loss of a student whose teacher is the original network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paring.data.batches import mapped, model_call, sample, tensors_of
from paring.data.checks import check_train_labels
from paring.data.job import Job
from paring.errors import TaskError, TechniqueError
from paring.graph.features import Feature, features_of, paired
from paring.graph.folding import folded
from paring.graph.weights import check_modules
from paring.ops.distillation import (
    as_logits,
    cosine_gap,
    holds_classes,
    holds_probabilities,
    scaled_mse,
    soft_cross_entropy_gap,
)
from paring.ops.features import COMPARISONS, FeatureDistance
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
    `features` are modules of both: the mean distance of what these give (`feature_distance`, see `paring.ops.features`)
    is added, times a weight that falls in a line from `feature_weight` to 0: in the end the answers count alone.
    """

    distillation: Distillation = "auto"
    temperature: float = 4.0
    label_weight: float = 0.1
    mixing: Mixing = "mixup"
    features: tuple[str, ...] = ()
    feature_weight: float = 80.0
    feature_distance: FeatureDistance = "values"

    def __post_init__(self) -> None:
        check_types(self)
        if not self.temperature > 0:
            raise TechniqueError(f"temperature={self.temperature} must be above 0, for example 4.")
        if not 0 <= self.label_weight <= 1:
            raise TechniqueError(f"label_weight={self.label_weight} must lie between 0 and 1.")
        if not 0 < self.feature_weight < math.inf:
            raise TechniqueError(f"feature_weight={self.feature_weight} must be above 0, for example 80.")


class Distiller:
    """The loss for `fit_`: (student, inputs, targets, share of the training that is done) -> ().

    "auto" compares an output of class scores by its distributions, any other by squared error in units of the teacher's
    own variance; several outputs add up. The teacher is a copy: the task's network is untouched.
    """

    def __init__(self, teaching: Teaching, job: Job) -> None:
        self.teaching, self.task_loss = teaching, job.task.loss
        check_modules(teaching.features, job.original, "features")
        teacher = copy.deepcopy(job.original).eval().requires_grad_(False)
        self.teacher = _quick_to_answer(teacher, teaching.features, job)
        self._channels_last = is_convolutional(self.teacher)
        if self._channels_last:
            with_layout_(self.teacher, torch.channels_last)
        self._generator = torch.Generator().manual_seed(job.seed)
        outputs, targets = self._example(job)
        self._classes: int | None = tensors_of(outputs)[0].shape[-1] if holds_classes(outputs, targets) else None
        self._gaps = self._read_gaps(outputs, targets, job.calibrate)
        self._mixes = teaching.label_weight < 1 and can_mix(job.calibrate[0][0], teaching.mixing)

    def __call__(self, student: nn.Module, inputs: Any, targets: Any, share: float) -> Tensor:
        """The loss of one batch. Raises DataError for a label out of range, also where the batch is to be mixed."""
        if targets is not None and self._classes is not None and self.teaching.label_weight > 0:
            check_train_labels(targets, self._classes)
        if self._mixes and bool(torch.rand((), generator=self._generator) < MIXED_SHARE):
            inputs, targets = mixed(inputs, self.teaching.mixing, self._generator), None
        outputs, seen = self._answers(student, inputs)
        weight = 0.0 if targets is None else self.teaching.label_weight
        losses = [weight * self.task_loss(outputs, targets)] if weight else []
        if weight < 1 or self.teaching.features:
            with torch.no_grad():
                taught, shown = self._answers(self.teacher, inputs)
            if weight < 1:
                losses.append((1 - weight) * self._gap(outputs, taught))
            if self.teaching.features:
                losses.append(self.teaching.feature_weight * (1 - share) * self._feature_gap(seen, shown))
        return sum(losses[1:], start=losses[0])

    @property
    def ranks(self) -> bool:
        """Whether the student learns distributions alone, of which the largest score counts and no exact number."""
        return all(gap.kind == "kl" for gap in self._gaps)

    def _example(self, job: Job) -> Batch:
        """The teacher's answers to a labelled batch, and its targets."""
        inputs, targets = _labelled_example(job)
        with torch.no_grad():
            outputs, shown = self._answers(self.teacher, placed(inputs, device_of(self.teacher), self._channels_last))
        uncalled = sorted({*self.teaching.features} - {each.module for each in shown})
        if uncalled:
            raise TechniqueError(f"features names {uncalled[0]!r}, which is not called as a module: leave it out.")
        return outputs, targets

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
        return self._answers(self.teacher, inputs)[0]

    def _answers(self, network: nn.Module, inputs: Any) -> tuple[Any, list[Feature]]:
        """What a network gives, and what the modules inside that are compared do."""
        with features_of(network, self.teaching.features) as features:
            return _as_float(model_call(network, inputs)), features

    def _gap(self, outputs: Any, taught: Any) -> Tensor:
        pairs = zip(self._gaps, _floating(outputs), _floating(taught), strict=True)
        return torch.stack([gap(student, teacher) for gap, student, teacher in pairs]).sum()

    def _feature_gap(self, seen: list[Feature], shown: list[Feature]) -> Tensor:
        way = COMPARISONS[self.teaching.feature_distance]
        return torch.stack([way.gap(ours, theirs) for ours, theirs in paired(seen, shown, way.part)]).mean()


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


def _quick_to_answer(teacher: nn.Module, features: Sequence[str], job: Job) -> nn.Module:
    """The teacher without the batch norms that can be folded: its answers take a good part of each training step."""
    try:
        return folded(teacher, placed(job.calibrate[0][0], device_of(teacher), channels_last=False), features)
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
