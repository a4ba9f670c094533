"""BitAllocation: a number format for each layer, the least harm at a limit of bytes or of measured time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal, Self, TypeAlias

import numpy as np
import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.matrices import as_rows, matrix_reasons
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.onnx_layers import weighted_layers
from paring.graph.placement import Plan, planned
from paring.graph.refusals import require_float_graph
from paring.graph.switch import FLOAT_NOW
from paring.ops.assignment import Chosen
from paring.ops.clipping import proposed_bits
from paring.ops.formats import format_of
from paring.ops.sensitivity import output_error, relative_error
from paring.ops.weight_formats import integral_format_of
from paring.settings import check_types
from paring.techniques.base import GraphTechnique
from paring.techniques.calibration import fingerprint, observe
from paring.techniques.layer_coverage import layer_coverage
from paring.techniques.layer_damage import alone, outputs_moved
from paring.techniques.layer_times import Stopwatch, TimeRatio
from paring.techniques.moments import layer_moments
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.within_time import Floats, Harms, Times, least_harm_in_time
from paring.types import Coverage, Objective

Sensitivity = Literal["auto", "outputs", "weights", "measured"]
Measure: TypeAlias = Callable[[Array, Array], float]
"""(rows of a weight, what they become) -> harm."""
DEFAULT = StaticQuantization("mse", scales="mse", rounding="learned")
FLOAT = "float"
FLOAT_BITS = 32
FEW_LAYERS, FEW_MACS = 6, 2**26
"""A network up to both is run so often in less than a minute."""


@dataclass(frozen=True)
class BitAllocation(GraphTechnique):
    """`quantization` with a format for each layer out of `choices`, which do the least harm together.

    Either the weights have at most `mean_bits` on average, or the network takes at most `latency_share` of the time
    that the float one takes, both measured in ONNX Runtime on one row, whatever the batch size of a budget; then
    "float" is a choice too, since integers of any width take the same time, and the choice is one whose network was
    timed itself (`paring.techniques.within_time`): of up to 6 layers every way to leave some in floating point is, of
    more those that the gains of layers tell to try. Or, with `least_sqnr_db`, each layer takes the fewest bits of the
    choices whose ratio of signal to noise is expected to reach that many decibels, by an analysis of how its weights
    are distributed (`paring.ops.clipping.proposed_bits`).
    The harm of a format is `sensitivity`: "outputs" estimates the error that it makes in the layer's outputs, over
    their power, from the second moments of what the layer reads (Nagel et al. 2020, section 3.2); "weights" is the
    error of the weights over their power, and needs no data; "measured" is how far the network's outputs move with
    that layer alone quantized (Wu et al. 2020, section 5.1). Harms of layers are summed, and the sum is minimised
    exactly: a multiple-choice knapsack (`paring.ops.assignment`). As errors of layers add up or cancel, "measured" then
    runs the network with this choice and those near it, and takes the one that moves the outputs least: on networks of
    a few layers that is the best of all. The estimates know nothing of what follows a layer, and may come out far from
    the best: they are for networks that take long to run some hundred times. "auto" measures networks of up to 6 layers
    and 64 million multiplications a row, and estimates by outputs what larger ones lose.
    """

    quantization: StaticQuantization = DEFAULT
    choices: tuple[str, ...] = ("int8", "int6", "int4", "int3", "int2")
    mean_bits: float = 4.0
    latency_share: float | None = None
    least_sqnr_db: float | None = None
    sensitivity: Sensitivity = "auto"

    improves: ClassVar[tuple[Objective, ...]] = ("size",)

    def __post_init__(self) -> None:
        check_types(self)
        twice = next((name for number, name in enumerate(self.choices) if name in self.choices[:number]), None)
        if twice is not None:
            raise TechniqueError(f"choices={self.choices} name {twice!r} twice: give each format once.")
        if len(self.choices) < 2:
            raise TechniqueError(f"choices={self.choices} must be two formats or more, for example ('int8', 'int4').")
        for name in self.choices:
            if name != FLOAT:
                integral_format_of(name, "choices")
        if not 1 <= self.mean_bits <= FLOAT_BITS:
            raise TechniqueError(f"mean_bits={self.mean_bits} must lie between 1 and {FLOAT_BITS}, for example 4.")
        if self.latency_share is not None and not 0 < self.latency_share < 1:
            raise TechniqueError(f"latency_share={self.latency_share} must lie between 0 and 1, for example 0.6.")
        if self.latency_share is not None and self.least_sqnr_db is not None:
            raise TechniqueError(
                f"latency_share={self.latency_share} and least_sqnr_db={self.least_sqnr_db} are two limits: give one."
            )
        if self.least_sqnr_db is not None and not 0 < self.least_sqnr_db <= 90:
            raise TechniqueError(f"least_sqnr_db={self.least_sqnr_db} must lie between 0 and 90, for example 20.")

    @property
    def _options(self) -> tuple[str, ...]:
        """What there is to choose from."""
        floats = self.latency_share is not None and FLOAT not in self.choices
        return (*self.choices, FLOAT) if floats else self.choices

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The quantized graph. Raises TechniqueError where no choice holds the limit, or it is quantized already."""
        return self.chosen(graph, job).apply(graph, job)

    def chosen(self, graph: onnx.ModelProto, job: Job) -> StaticQuantization:
        """The quantization with the formats that were chosen."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        plan = planned(editable, self.quantization.placement, self.quantization.exclude)
        if not plan.layers:
            raise TechniqueError("no layer can be quantized, so that there is nothing to choose.")
        key = f"formats of {self!r} in {fingerprint(graph)}"
        found = self._with(plan.layers, job.once(key, lambda: self._formats(editable, plan, job)))
        floats = tuple(layer for layer in found.exclude if layer not in self.quantization.exclude)
        job.say(f"formats={found.formats}" + (f", exclude={floats}" if floats else ""))
        return found

    def _with(self, layers: Sequence[str], formats: Sequence[str]) -> StaticQuantization:
        pairs = list(zip(layers, formats, strict=True))
        floats = tuple(layer for layer, name in pairs if name == FLOAT)
        named = tuple((layer, name) for layer, name in pairs if name != FLOAT)
        return replace(self.quantization, formats=named, exclude=(*self.quantization.exclude, *floats))

    def _formats(self, graph: Graph, plan: Plan, job: Job) -> list[str]:
        if self.least_sqnr_db is not None:
            return self._by_distribution(graph, plan, self.least_sqnr_db)
        with self._harms(graph, plan, job) as harms:
            return [self._options[option] for option in self._cheapest(graph, plan, harms, job)]

    def _by_distribution(self, graph: Graph, plan: Plan, least_sqnr_db: float) -> list[str]:
        """For each layer the choice of fewest bits that hold its weights so well; the widest where none does."""
        by_bits = sorted(self._options, key=_bits)
        found = []
        for _, rows in _rows_of(graph, plan.layers):
            proposed = _proposed_bits(rows, least_sqnr_db)
            found.append(next((name for name in by_bits if _bits(name) >= proposed), by_bits[-1]))
        return found

    def _cheapest(self, graph: Graph, plan: Plan, harms: Harms, job: Job) -> Chosen:
        if self.latency_share is not None:
            return self._in_time(graph.model, plan.layers, harms, self.latency_share, job)
        sizes = {layer.name: layer.parameters for layer in weighted_layers(graph.model)}
        bits = [_bits(name) for name in self._options]
        costs = [[float(sizes[layer] * each) for each in bits] for layer in plan.layers]
        if min(bits) > self.mean_bits:
            raise TechniqueError(
                f"mean_bits={self.mean_bits} can't be held: the least of choices has {min(bits)} bits."
            )
        return harms.least_at(costs, self.mean_bits * sum(sizes[layer] for layer in plan.layers))

    def _in_time(self, graph: onnx.ModelProto, layers: Sequence[str], harms: Harms, limit: float, job: Job) -> Chosen:
        """The least harm whose network was measured to hold the limit."""
        watch = Stopwatch(graph, job)

        def share(floats: Floats) -> TimeRatio:
            named = tuple(layers[layer] for layer in sorted(floats))
            whole = replace(self.quantization, exclude=(*self.quantization.exclude, *named))
            found = watch.share(whole, limit)
            job.say(f"{found} of the float network's time with " + (", ".join(named) or "no layer") + " in float")
            return found

        def gains(integers: float) -> list[float]:
            found = []
            for layer in layers:
                longer = watch.longer(self.quantization, layer)
                job.say(f"{layer} in floating point: {longer} of the time with all layers in integers")
                # The upper end: of a layer that is lost in the noise nobody knows that it gains nothing.
                found.append(integers * (longer.high - 1))
            return found

        return least_harm_in_time(harms, self._options.index(FLOAT), Times(len(layers), share, gains), limit)

    @contextmanager
    def _harms(self, graph: Graph, plan: Plan, job: Job) -> Iterator[Harms]:
        """What tells choices apart."""
        if self._measures(graph, plan):
            with self._measured(graph, plan, job) as harms:
                yield harms
        else:
            found = self._estimated(graph, plan, job)
            yield Harms([found[layer] for layer in plan.layers])

    def _measures(self, graph: Graph, plan: Plan) -> bool:
        macs = sum(layer.macs for layer in weighted_layers(graph.model))
        is_small = len(plan.layers) <= FEW_LAYERS and macs <= FEW_MACS
        return self.sensitivity == "measured" or (self.sensitivity == "auto" and is_small)

    def _estimated(self, graph: Graph, plan: Plan, job: Job) -> dict[str, list[float]]:
        """For each layer the harm of each choice."""
        rows = dict(_rows_of(graph, plan.layers))
        harms = {
            layer: [self._error(layer, rows[layer], name, relative_error) for name in self._options]
            for layer in plan.layers
        }
        if self.sensitivity != "weights":
            reasons = matrix_reasons(graph)
            fitting = [layer for layer in plan.layers if reasons.get(layer) == ""]
            for layer, moments in layer_moments(graph, fitting, job):
                measure = _in_outputs(moments.second)
                harms[layer] = [self._error(layer, rows[layer], name, measure) for name in self._options]
        return harms

    def _error(self, layer: str, rows: Array, name: str, measure: Measure) -> float:
        if name == FLOAT:
            return 0.0
        grid = replace(self.quantization, weights=name, formats=()).weighing.grid(layer, rows)
        return measure(rows, grid.quantized(rows))

    @contextmanager
    def _measured(self, graph: Graph, plan: Plan, job: Job) -> Iterator[Harms]:
        nodes = {node.name: node for node in graph.nodes}
        inputs = {name: nodes[name].input[0] for name in plan.layers}
        seen = observe(graph.model, list(dict.fromkeys([*plan.sources, *inputs.values()])), job)
        integers = [name for name in self._options if name != FLOAT]
        numbers = [FLOAT_NOW if name == FLOAT else integers.index(name) for name in self._options]
        quantizations = [replace(self.quantization, weights=name, formats=()) for name in integers]
        with outputs_moved(quantizations, graph.model, inputs, seen, job) as moved:
            layers = len(plan.layers)
            harms = [[moved(alone(layers, layer, number)) for number in numbers] for layer in range(layers)]

            @cache
            def error(chosen: Chosen) -> float:
                return moved([numbers[option] for option in chosen])

            yield Harms(harms, error)

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where it stayed float."""
        plan = planned(Graph(before), self.quantization.placement, self.quantization.exclude)
        return layer_coverage(self.name, before, after, plan.reasons, "float does the least harm there")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """4 bits on average, 3 and 2.5.

        Raises TechniqueError where fewer than two layers can be quantized, or the graph is quantized already.
        """
        require_float_graph(graph, cls.__name__)
        if len(planned(Graph(graph), "every-edge").layers) < 2:
            raise TechniqueError("fewer than two layers can be quantized: there is nothing to divide bits between.")
        for mean_bits in (4.0, 3.0, 2.5):
            yield cls(mean_bits=mean_bits)


def _bits(name: str) -> int:
    return FLOAT_BITS if name == FLOAT else format_of(name).bits


def _proposed_bits(rows: Array, least_sqnr_db: float) -> int:
    try:
        return proposed_bits(rows, least_sqnr_db)
    except TechniqueError:  # More than integers have.
        return FLOAT_BITS


def _rows_of(graph: Graph, layers: Sequence[str]) -> Iterator[tuple[str, Array]]:
    """Each layer's weight, a row for each output."""
    nodes = {node.name: node for node in graph.nodes}
    for layer in layers:
        weight = graph.constant(nodes[layer].input[1])
        assert weight is not None
        yield layer, as_rows(nodes[layer], weight * np.float32(attribute(nodes[layer], "alpha", 1.0)))


def _in_outputs(moments: Array) -> Measure:
    """The relative error of outputs by moments (groups, columns, columns) of what equal parts of the rows read."""

    def measure(rows: Array, values: Array) -> float:
        parts = zip(np.split(rows, len(moments)), np.split(values, len(moments)), moments, strict=True)
        pairs = [(output_error(w, v, each), output_error(w, np.zeros_like(w), each)) for w, v, each in parts]
        error, power = (float(sum(values)) for values in zip(*pairs, strict=True))
        return error / power if power > 0 else 0.0

    return measure
