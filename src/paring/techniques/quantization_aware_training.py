"""Quantization-aware training: the network learns with the few values that its weights and inputs will have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.fake_quantized import called_layers, quantize_, quantized_layers
from paring.graph.macs import layer_costs
from paring.graph.weights import check_modules
from paring.ops.formats import Format, format_of
from paring.ops.ranges import Histogram, chosen_range
from paring.techniques.fine_tune import FineTune, trainable_copy
from paring.techniques.observed_inputs import observed_inputs
from paring.train.constraint import Constraint, HeldZeros
from paring.train.loop import Loss
from paring.train.precision import device_of, placed
from paring.train.quantizers import HeldSteps, LearnedInputs, LearnedWeights, Signs, fix_
from paring.types import Coverage, LayerChange, Task

Ends = Literal["int8", "same", "float"]


@dataclass(frozen=True)
class QuantizationAwareTraining(FineTune):
    """Fine-tuning in which layers see weights and inputs as `weights` and `activations` will have them.

    Jacob et al. 2018, section 3, with scales that are learned: LSQ (Esser et al. 2020) and, for inputs of both signs,
    LSQ+ (Bhalgat et al. 2020). Weights have a scale for each output channel, inputs one for each tensor. Formats are
    those of `paring.ops.formats` whose levels are integers: "int2" to "int8", "binary", "ternary", "pow3", "apot4" and
    others for weights; "uint1" to "uint8", "int2" to "int8" and "binary" for inputs (plus or minus one scale, Rastegari
    et al. 2016, XNOR-Net; on either side of a learned middle), or "float". `ends` is what the first and the last layer
    have, which suffer most. Layers named by `exclude` stay float. With `progressive` the bits go down step by step in
    the first half of the training (Zhuang et al. 2018, Towards Effective Low-bitwidth Convolutional Neural Networks,
    section 3.2).

    What comes out computes in floating point with those values; its export holds the integers.
    """

    epochs: int = 30
    learning_rate: float = 0.02
    weights: str = "int4"
    activations: str = "uint8"
    ends: Ends = "int8"
    progressive: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("weights", "activations"):
            name = getattr(self, setting)
            if (setting, name) != ("activations", "float") and not trainable(format_of(name), setting):
                usual = "int2 to int8, ternary or binary" if setting == "weights" else "uint1 to uint8, or float"
                raise TechniqueError(f"{setting}={name!r} is no format to train for: choose for example {usual}.")

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError where `exclude` names what the network does not have."""
        check_modules(self.exclude, model, "exclude")
        super().check_fits(model, task)

    def student(self, model: nn.Module, job: Job) -> nn.Module:
        """A copy whose layers learn scales. TechniqueError where no layer can be quantized."""
        check_modules(self.exclude, model, "exclude")
        student = trainable_copy(model)
        called = self._called(student, job)
        chosen = self._formats(called)
        if not chosen:
            raise TechniqueError("every convolution and linear layer is to stay float: exclude fewer of them.")
        _check_finite(student, chosen)
        seen = observed_inputs(student, list(chosen), job)
        inputs: dict[tuple[int, str], nn.Module] = {}
        weights: dict[tuple[int, str], LearnedWeights] = {}
        for name, (form, activations) in chosen.items():
            layer = student.get_submodule(name)
            assert isinstance(layer.weight, Tensor)
            # Layers that read one tensor read the same integers, and those that share a weight share what it becomes.
            read, held = (called[name], activations.name if activations else ""), (id(layer.weight), form.name)
            if read not in inputs:
                inputs[read] = _input_quantizer(activations, *seen[name]).to(layer.weight.device)
            if held not in weights:
                weights[held] = LearnedWeights(layer.weight, form)
            quantize_(layer, inputs[read], weights[held])
        return student

    def finished(self, student: nn.Module) -> nn.Module:
        """The network with fixed scales, and weights that are levels times these."""
        fix_(student)
        return student

    def shrunk(self, model: nn.Module, job: Job) -> nn.Module:
        """The quantized network without any training."""
        return self.finished(self.student(model, job))

    def shaped(self, taught: Loss, student: nn.Module, job: Job) -> tuple[Loss, Constraint]:
        """What the teacher says; with `progressive`, bits that go down."""
        return taught, HeldSteps(student, HeldZeros(student, job.original), progressive=self.progressive)

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Each layer that holds weights: its formats, or why it stayed float."""
        done = {name for name, _ in quantized_layers(after)}
        formats = self._formats(self._called(before, job))
        layers = []
        for name, cost in layer_costs(before, job.calibrate[0][0]).items():
            if name in done:
                weights, activations = formats[name]
                reason = f"{weights.name} weights, {activations.name if activations else 'float'} inputs"
            elif name in self.exclude:
                reason = "excluded by the settings"
            elif not cost.macs:
                reason = "its weights are multiplied by another module, or by none"
            else:
                reason = f"{type(before.get_submodule(name)).__name__} stays float"
            layers.append(LayerChange(name, name in done, reason, cost.parameters, cost.macs))
        return Coverage(self.name, tuple(layers))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """8 bits alone: fewer are no faster, and whether they are worth their size is for people to say.

        Raises TechniqueError without training data, parameters, or layers that could be quantized.
        """
        for _ in super().variants(model, job):
            cls._called(model, job)
            yield cls(weights="int8")

    @staticmethod
    def _called(model: nn.Module, job: Job) -> dict[str, int]:
        """The layers that may be quantized. TechniqueError where there are none."""
        called = called_layers(model, placed(job.sample, device_of(model), channels_last=False))
        if not called:
            raise TechniqueError("no convolution or linear layer runs as a module: there is nothing to quantize.")
        return called

    def _formats(self, called: Iterable[str]) -> dict[str, tuple[Format, Format | None]]:
        """Formats of weights and inputs of each layer that is quantized, in the order of the calls."""
        names = list(called)
        own = format_of(self.weights), None if self.activations == "float" else format_of(self.activations)
        chosen = dict.fromkeys(names, own)
        if self.ends == "int8":
            at_ends = format_of("int8"), format_of("uint8") if own[1] else None
            chosen |= {names[0]: at_ends, names[-1]: at_ends}
        kept = self.exclude if self.ends != "float" else (*self.exclude, names[0], names[-1])
        return {name: formats for name, formats in chosen.items() if name not in kept}


def trainable(form: Format, setting: str) -> bool:
    """Whether weights or activations can be trained for a format: all its levels are integers of at most 8 bits."""
    if setting == "weights":
        return form.is_integral and form.levels[0] < 0
    return form.is_integral and (form.step == 1 or form.name == "binary")


def _check_finite(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise TechniqueError that names a weight which holds NaN or infinity."""
    for name in layers:
        if not torch.isfinite(model.get_parameter(f"{name}.weight")).all():
            raise TechniqueError(f"weight '{name}.weight' holds NaN or infinity: check the network's training.")


def _input_quantizer(form: Format | None, seen: Histogram, values_per_row: int) -> nn.Module:
    if form is None:
        return nn.Identity()
    if form.name == "binary":
        return Signs(seen, values_per_row)
    return LearnedInputs(form, chosen_range(seen, "mse", levels=len(form.levels)), values_per_row)
