"""Quantization-aware training: the network learns with the few values that its weights and inputs will have."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.fake_quantized import called_layers, quantize_, quantized_layers
from paring.graph.macs import layer_costs
from paring.graph.onnx_layers import weighted_layers
from paring.graph.weights import check_modules
from paring.ops.formats import format_of
from paring.settings import check_once
from paring.techniques.base import GraphTechnique
from paring.techniques.bit_allocation import BitAllocation
from paring.techniques.fine_tune import FineTune, trainable_copy
from paring.techniques.observed_values import observed
from paring.techniques.quantized_outputs import limits_of, outputs_to_quantize, quantize_outputs_
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.ways import Ways, check_estimator, check_trainable
from paring.train.constraint import Constraint, HeldZeros
from paring.train.estimators import INPUTS, WEIGHTS, Estimator, InputEstimator, input_quantizer, weight_quantizer
from paring.train.loop import Loss
from paring.train.precision import device_of, placed
from paring.train.quantizers import HeldSteps, fix_
from paring.types import Coverage, LayerChange, Task

Ends = Literal["int8", "same", "float"]


@dataclass(frozen=True)
class QuantizationAwareTraining(FineTune):
    """Fine-tuning in which layers see weights and inputs as `weights` and `activations` will have them.

    Jacob et al. 2018, section 3, with scales that are learned: LSQ (Esser et al. 2020) and, for inputs of both signs,
    LSQ+ (Bhalgat et al. 2020). Weights have a scale for each output channel, inputs one for each tensor. Formats are
    those of `paring.ops.formats` whose levels are integers: "int2" to "int8", "binary", "ternary", "pow3", "apot4" and
    others for weights; "uint1" to "uint8", "int2" to "int8" and "binary" for inputs (plus or minus one scale, Rastegari
    et al. 2016, XNOR-Net; on either side of a learned middle), or "float". With these, what a convolution and its batch
    norm give to an addition, or to whatever else computes in floating point, becomes "uint8": runtimes have no integer
    convolution for another output. So does what a linear layer of rows gives to a rectifier, or to integers and floats
    at once. `ends` is what the first and the last layer
    have, which suffer most. Layers named by `exclude` stay float. With `progressive` the bits go down step by step in
    the first half of the training (Zhuang et al. 2018, Towards Effective Low-bitwidth Convolutional Neural Networks,
    section 3.2).

    `formats` names layers whose weights have another format, at the ends too; or it is a `BitAllocation`, which chooses
    one for each layer that is not to stay float, by the network as it is before the training.

    `estimator` is how weights learn: "learned" is LSQ, of two levels BWN (Rastegari et al. 2016); "twn" (Li et al.
    2016) and "ttq", two scales of a whole layer (Zhu et al. 2017), are for ternary weights; "dorefa" (Zhou et al. 2016)
    is for odd integers. Layers that have other formats learn scales. `input_estimator` is how inputs do: "dorefa" has
    levels that stay where they are, from 0 on; "xnor" multiplies what comes of binary inputs by their size around each
    place (Rastegari et al. 2016, section 3.2).

    What comes out computes in floating point with those values; its export holds the integers.
    """

    prepares: ClassVar[tuple[type[GraphTechnique], ...]] = (StaticQuantization,)
    goes_on: ClassVar[bool] = False

    epochs: int = 30
    learning_rate: float = 0.02
    weights: str = "int4"
    activations: str = "uint8"
    ends: Ends = "int8"
    progressive: bool = False
    exclude: tuple[str, ...] = ()
    formats: tuple[tuple[str, str], ...] | BitAllocation = ()
    estimator: Estimator = "learned"
    input_estimator: InputEstimator = "learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting, name in self._named():
            check_trainable(setting, name)
        check_estimator("weights", self.weights, self.estimator, WEIGHTS)
        check_estimator("activations", self.activations, self.input_estimator, INPUTS)
        named = [each for each in (self.estimator, self.input_estimator) if each != "learned"]
        if self.progressive and named:
            raise TechniqueError(f"progressive=True is for learned scales, not for {named[0]!r}: leave one out.")
        if isinstance(self.formats, tuple):
            check_once("formats", self.formats)
            both = sorted({layer for layer, _ in self.formats} & set(self.exclude))
            if both:
                raise TechniqueError(f"{both[0]!r} is named by formats and by exclude: take it out of one.")

    def _named(self) -> Iterator[tuple[str, str]]:
        """Every format that the settings name, by the setting."""
        yield from (("weights", self.weights), ("activations", self.activations))
        if isinstance(self.formats, tuple):
            yield from (("formats", name) for _, name in self.formats)
        else:
            yield from (("choices", name) for name in self.formats.choices if name != "float")

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError where `exclude` or `formats` name what the network does not have."""
        self._check_names(model)
        super().check_fits(model, task)

    def _check_names(self, model: nn.Module) -> None:
        check_modules(self.exclude, model, "exclude")
        if isinstance(self.formats, tuple):
            check_modules([layer for layer, _ in self.formats], model, "formats")

    def student(self, model: nn.Module, job: Job) -> nn.Module:
        """A copy whose layers learn scales. TechniqueError where no layer can be quantized."""
        self._check_names(model)
        student = trainable_copy(model)
        called = self._called(student, job)
        chosen = self._chosen(student, called, job)
        if not chosen:
            raise TechniqueError("every convolution and linear layer is to stay float: exclude fewer of them.")
        _check_finite(student, chosen)
        outputs, norms = outputs_to_quantize(student, chosen, called, job)
        seen, given = observed(student, list(chosen), limits_of(outputs), job)
        inputs: dict[Hashable, nn.Module] = {}
        weights: dict[Hashable, nn.Module] = {}
        for name, ways in chosen.items():
            layer = student.get_submodule(name)
            assert isinstance(layer.weight, Tensor)
            ways.check_layer(name, layer, seen[name][0].low)
            # Layers that read one tensor read the same integers, and those that share a weight share what it becomes.
            read = called[name], ways.inputs, ways.input_estimator
            held = id(layer.weight), ways.weights, ways.estimator
            if read not in inputs:
                found = input_quantizer(ways.input_estimator, ways.inputs, *seen[name])
                inputs[read] = found.to(layer.weight.device)
            if held not in weights:
                weights[held] = weight_quantizer(ways.estimator, layer.weight, ways.weights)
            quantize_(layer, inputs[read], weights[held], ways.told, scaled=ways.input_estimator == "xnor")
        quantize_outputs_(student, outputs, given, norms)
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
        done = {name: layer.formats for name, layer in quantized_layers(after)}
        layers = []
        for name, cost in layer_costs(before, job.calibrate[0][0]).items():
            if name in done:
                reason = done[name]
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

    def _chosen(self, student: nn.Module, called: Iterable[str], job: Job) -> dict[str, Ways]:
        """What is done with each layer that is quantized, in the order of the calls."""
        names = list(called)
        inputs = None if self.activations == "float" else format_of(self.activations)
        own = Ways(format_of(self.weights), inputs, self.estimator, self.input_estimator)
        chosen = dict.fromkeys(names, own)
        if self.ends == "int8":
            at_ends = Ways(format_of("int8"), format_of("uint8") if inputs else None)
            chosen |= {names[0]: at_ends, names[-1]: at_ends}
        kept = {*self.exclude, *((names[0], names[-1]) if self.ends == "float" else ())}
        if isinstance(self.formats, BitAllocation):
            formats, floats = self._allocated(self.formats, student, [name for name in names if name not in kept], job)
            kept |= floats
        else:
            formats = dict(self.formats)
            kept -= formats.keys()
        for name, form in formats.items():
            if name not in chosen:
                close = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.0))
                raise TechniqueError(f"formats names {name!r}, which is not quantized; the closest that are: {close}.")
            chosen[name] = replace(chosen[name], weights=format_of(form), estimator=self.estimator)
        return {name: ways for name, ways in chosen.items() if name not in kept}

    @staticmethod
    def _allocated(
        allocation: BitAllocation, student: nn.Module, names: Sequence[str], job: Job
    ) -> tuple[dict[str, str], set[str]]:
        """The formats that an allocation chooses for these layers, and those of them that it leaves in float."""
        inputs = placed(job.sample, device_of(student), channels_last=False)
        graph = export_onnx(export_program(student, inputs), signature_of(student, inputs))
        others = tuple(layer.name for layer in weighted_layers(graph) if layer.name not in names)
        whole = replace(allocation.quantization, exclude=(*allocation.quantization.exclude, *others))
        found = replace(allocation, quantization=whole).chosen(graph, job)
        # A graph knows a weight that several layers share by the name of one of them.
        weights = {name: id(student.get_submodule(name).weight) for name in names}
        formats = {weights[name]: form for name, form in found.formats}
        chosen = {name: formats[weight] for name, weight in weights.items() if weight in formats}
        return chosen, {*found.exclude} & {*names}


def _check_finite(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise TechniqueError that names a weight which holds NaN or infinity."""
    for name in layers:
        if not torch.isfinite(model.get_parameter(f"{name}.weight")).all():
            raise TechniqueError(f"weight '{name}.weight' holds NaN or infinity: check the network's training.")
