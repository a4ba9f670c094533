"""Fine-tuning in which the original network is the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.copies import copied
from paring.graph.macs import layer_costs
from paring.graph.weights import check_modules
from paring.ops.features import FeatureDistance
from paring.settings import check_types
from paring.techniques.base import TrainingTechnique
from paring.train.constraint import Constraint, HeldZeros
from paring.train.distiller import Distillation, Distiller, Teaching
from paring.train.loop import Loss, fit_
from paring.train.mixing import Mixing
from paring.train.schedule import Schedule
from paring.train.settings import MakesOptimizer, Optimizer, Precision, Training
from paring.types import Coverage, LayerChange, Task


@dataclass(frozen=True)
class FineTune(TrainingTechnique):
    """Train the network to answer as the original does: knowledge distillation (Hinton, Vinyals, Dean 2015).

    loss = label_weight * task.loss + (1 - label_weight) * distance to the original's answers: T^2 KL for class scores,
    squared error over the original's variance for all else, or cosine. Data without labels is taught by the original
    alone. `learning_rate` is the peak of a `schedule` that ends with the epochs or with the job's deadline,
    whichever comes first. Unlike the paper, half the batches of inputs that can be mixed are (`mixing`), and judged by
    the original alone: it keeps the copy close to the original on inputs that neither has seen. Weights that a pruning
    set to zero stay zero.

    `features` names modules whose outputs are to be like the original's too, such as the blocks of a network (Romero et
    al. 2015, FitNets, without their projections: shapes have to be the same). Added to the loss is their squared error
    over the variance of the original's, mean over the modules, times a weight that falls from `feature_weight` to 0 in
    the course of the training: FitNets first learn features, then answers. `feature_distance` is another distance:
    "attention" of maps, whatever their channels (Zagoruyko and Komodakis 2017); "similarities" (Tung and Mori 2019),
    "distances" or "angles" (Park et al. 2019, RKD) between the rows of a batch, whatever their shape; "contrast" of a
    row with others (Tian et al. 2020, CRD). See `paring.ops.features`.

    `precision` is what the training multiplies in. "auto" is bfloat16 where the hardware does that and the larger score
    is all that counts, else float32. In float16 the loss is scaled, so that small gradients don't vanish. Where the
    first step fails in either, the training is in float32. `weight_decay` spares biases and normalisation.

    `optimizer` is torch's of that name, "momentum" and "nesterov" for SGD with it, or a function from groups of
    parameters to an optimizer. `learning_rate` suits these two: for Adam a twentieth of it is usual. A step may be that
    of `accumulate` batches, and with `averaged` the weights are the mean over so large a share of the training at its
    end (Izmailov et al. 2018, SWA). A `compiled` network takes about a minute before its first step, and less time for
    each one: it is for trainings of an hour, where a C++ compiler is installed.

    The search chooses the epochs of `FineTune`. Those of an object, as `FineTune(epochs=3)`, it keeps: the structures
    may be raced with fewer, and the long training gets as many of them as the time limit holds, never more.
    """

    epochs: int = 30
    learning_rate: float = 0.02
    distillation: Distillation = "auto"
    temperature: float = 4.0
    label_weight: float = 0.1
    mixing: Mixing = "mixup"
    precision: Precision = "auto"
    weight_decay: float = 1e-4
    features: tuple[str, ...] = ()
    feature_weight: float = 80.0
    feature_distance: FeatureDistance = "values"
    optimizer: Optimizer | MakesOptimizer = "nesterov"
    schedule: Schedule = "cosine"
    accumulate: int = 1
    averaged: float = 0.0
    compiled: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.compiled and self.features:
            raise TechniqueError("compiled=True hides what modules inside give from features: leave one out.")
        self._training(self.precision)
        self._teaching()

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError where `features` names no module of the network; TaskError without training data."""
        check_modules(self.features, model, "features")
        super().check_fits(model, task)

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """A trained copy in eval mode. Raises TaskError without training data or with labels out of range."""
        train = self.train_of(job.task)
        student = self.student(model, job)
        distiller = Distiller(self._teaching(), job)
        # A class is decided by the larger score, which bfloat16 keeps; a number that is wanted exactly needs float32.
        exact = self.precision == "auto" and not distiller.ranks
        training = self._training("float32" if exact else self.precision)
        loss, constraint = self.shaped(distiller, student, job)
        trained = fit_(student, train, loss, training, job, constraint=constraint)
        job.say(f"fine-tuned for {trained.steps:,} steps, {trained.rows:,} rows; last loss {trained.loss:.4f}")
        return self.finished(student)

    def student(self, model: nn.Module, job: Job) -> nn.Module:
        """The network to train, a copy."""
        return trainable_copy(model)

    def finished(self, student: nn.Module) -> nn.Module:
        """The trained network as it is to be from now on."""
        return student

    def shaped(self, taught: Loss, student: nn.Module, job: Job) -> tuple[Loss, Constraint]:
        """The loss of the training, from what the teacher says, and what holds of the student's weights."""
        return taught, HeldZeros(student, job.original)

    def bare(self, epochs: int) -> FineTune:
        """The fine-tuning alone, for so many epochs, with the settings that a training which does more has for it."""
        return FineTune(**{**fine_tuning_of(self), "epochs": epochs})

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Every layer that holds weights: trained, or frozen."""
        old = dict(before.named_parameters())
        layers = []
        for name, cost in layer_costs(after, job.calibrate[0][0]).items():
            own = after.get_submodule(name).named_parameters(prefix=name, recurse=False)
            changed = any(_differs(old.get(key), value) for key, value in own)
            reason = "trained" if changed else "frozen: its weights take no gradient"
            layers.append(LayerChange(name, changed, reason, cost.parameters, cost.macs))
        return Coverage(self.name, tuple(layers))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """One, as each more takes from the time for the long training.

        Raises TechniqueError without training data or parameters.
        """
        if job.task.train is None:
            raise TechniqueError("the task has no `train` data.")
        if not any(True for _ in model.parameters()):
            raise TechniqueError("the network has no parameters to train.")
        yield cls()

    def _training(self, precision: Precision) -> Training:
        shared = {each.name: getattr(self, each.name) for each in fields(Training) if hasattr(self, each.name)}
        return Training(**{**shared, "precision": precision})

    def _teaching(self) -> Teaching:
        shared = {each.name: getattr(self, each.name) for each in fields(Teaching)}
        return Teaching(**shared)


def fine_tuning_of(training: TrainingTechnique) -> dict[str, Any]:
    """The settings that a training has in common with `FineTune`: none where it is of another kind."""
    return {each.name: getattr(training, each.name) for each in fields(FineTune) if isinstance(training, FineTune)}


def _differs(before: nn.Parameter | None, after: nn.Parameter) -> bool:
    return before is None or before.shape != after.shape or not torch.equal(before, after)


def trainable_copy(model: nn.Module) -> nn.Module:
    """A copy that can be trained: what the user froze stays frozen, unless that is everything."""
    student = copied(model)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        for parameter in student.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return student
