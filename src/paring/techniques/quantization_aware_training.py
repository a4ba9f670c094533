"""Quantization-aware training: the network learns with the few values that its weights and inputs will have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.fake_quantized import Called, called_layers, quantize_, quantized_layers
from paring.graph.macs import layer_costs
from paring.ops.formats import Format, format_of
from paring.ops.ranges import Histogram, chosen_range
from paring.techniques.fine_tune import FineTune, trainable_copy
from paring.techniques.observed_inputs import observed_inputs
from paring.train.constraint import Constraint, HeldZeros
from paring.train.loop import Loss
from paring.train.quantizers import LearnedInputs, LearnedWeights, Lowering, Signs, fix_
from paring.types import Coverage, LayerChange

Ends = Literal["int8", "same", "float"]


@dataclass(frozen=True)
class QuantizationAwareTraining(FineTune):
    """Fine-tuning in which layers see weights and inputs as `weights` and `activations` will have them.

    Jacob et al. 2018, section 3, with scales that are learned: LSQ (Esser et al. 2020) and, for inputs of both signs,
    LSQ+ (Bhalgat et al. 2020). Weights have a scale for each output channel, inputs one for each tensor. Formats are
    those of `paring.ops.formats` whose levels are integers: "int2" to "int8", "binary", "ternary", "pow3", "apot4" and
    others for weights; "uint1" to "uint8", "int2" to "int8" and "binary" (plus or minus one scale, Rastegari et al.
    2016, XNOR-Net) for inputs, or "float". `ends` is what the first and the last layer have, which suffer most. Layers
    named by `exclude` stay float. With `progressive` the bits go down step by step in the first half of the training
    (Zhuang et al. 2018, Towards Effective Low-bitwidth Convolutional Neural Networks, section 3.2).

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

    def student(self, model: nn.Module, job: Job) -> nn.Module:
        """A copy whose layers learn scales. TechniqueError where no layer can be quantized."""
        student = trainable_copy(model)
        called = called_layers(student, job.sample)
        chosen = self._formats(called)
        if not chosen:
            raise TechniqueError("no convolution or linear layer runs as a module: there is nothing to quantize.")
        seen = observed_inputs(student, list(chosen), job)
        inputs: dict[int, nn.Module] = {}
        for name, (weights, activations) in chosen.items():
            layer, number = student.get_submodule(name), called.inputs[name]
            # Layers that read one tensor read the same integers: the one that is called first says which.
            inputs.setdefault(number, _input_quantizer(activations, *seen[name]))
            assert isinstance(layer.weight, Tensor)
            quantize_(layer, inputs[number], LearnedWeights(layer.weight, weights))
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
        held = HeldZeros(student, job.original)
        return taught, Lowering(student, held) if self.progressive else held

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Each layer that holds weights: its formats, or why it stayed float."""
        done = {name for name, _ in quantized_layers(after)}
        called = called_layers(before, job.sample)
        formats = self._formats(called)
        layers = []
        for name, cost in layer_costs(before, job.calibrate[0][0]).items():
            if name in done:
                weights, activations = formats[name]
                reason = f"{weights.name} weights, {activations.name if activations else 'float'} inputs"
            elif name in self.exclude:
                reason = "excluded by the settings"
            elif name in called.uncalled:
                reason = "its weights are read by another module"
            else:
                reason = f"{type(before.get_submodule(name)).__name__} stays float"
            layers.append(LayerChange(name, name in done, reason, cost.parameters, cost.macs))
        return Coverage(self.name, tuple(layers))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """8 bits, and 4-bit weights.

        Raises TechniqueError without training data or parameters.
        """
        for _ in super().variants(model, job):
            yield cls(weights="int8")
            yield cls(weights="int4")

    def _formats(self, called: Called) -> dict[str, tuple[Format, Format | None]]:
        """Formats of weights and inputs of each layer that is quantized, in the order of the calls."""
        if unknown := sorted(set(self.exclude) - set(called.inputs) - set(called.uncalled)):
            known = ", ".join(list(called.inputs)[:8])
            raise TechniqueError(f"exclude names {unknown[0]!r}, which is no layer that could be quantized: {known}.")
        names = [name for name in called.inputs if name not in self.exclude]
        own = format_of(self.weights), None if self.activations == "float" else format_of(self.activations)
        chosen = dict.fromkeys(names, own)
        for name in {*names[:1], *names[-1:]} if self.ends != "same" else ():
            if self.ends == "float":
                del chosen[name]
            else:
                chosen[name] = format_of("int8"), format_of("uint8") if own[1] else None
        return chosen


def trainable(form: Format, setting: str) -> bool:
    """Whether weights or activations can be trained for a format: all its levels are integers of at most 8 bits."""
    if setting == "weights":
        return form.is_integral and form.levels[0] < 0
    return form.is_integral and (form.step == 1 or form.name == "binary")


def _input_quantizer(form: Format | None, seen: Histogram, values_per_row: int) -> nn.Module:
    if form is None:
        return nn.Identity()
    if form.name == "binary":
        total = max(int(seen.counts.sum()), 1)
        return Signs(float(seen.counts @ abs(seen.centers)) / total)
    return LearnedInputs(form, chosen_range(seen, "mse", levels=len(form.levels)), values_per_row)
