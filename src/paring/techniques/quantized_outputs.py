"""What quantized layers give, in 8 bits where it is read in floating point, so that integers surround them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from paring.data.job import Job
from paring.graph.fake_quantized import QuantizedLayer, quantize_output_
from paring.graph.open_outputs import CONVOLUTIONS, ENDLESS, OpenOutput, open_outputs
from paring.ops.formats import format_of
from paring.techniques.observed_values import Seen
from paring.techniques.ways import Ways
from paring.train.estimators import input_quantizer
from paring.train.precision import device_of, placed

OUTPUTS = "uint8"


def outputs_to_quantize(
    model: nn.Module, chosen: Mapping[str, Ways], called: Mapping[str, int], job: Job
) -> tuple[list[OpenOutput], dict[str, str]]:
    """Those of layers that are to read integers, and the batch norms that alone follow layers.

    `called` numbers the tensors that layers read.
    """
    read_as = {
        name: ((called[name], ways.inputs, ways.input_estimator), ways.inputs)
        for name, ways in chosen.items()
        if ways.inputs is not None
    }
    found, norms = open_outputs(model, placed(job.sample, device_of(model), channels_last=False), read_as)
    # What is brought to the size of the input afterwards comes out of the layer in floating point, whoever reads it.
    scaled = [
        name
        for name in read_as
        if chosen[name].input_estimator == "xnor" and isinstance(model.get_submodule(name), CONVOLUTIONS)
    ]
    others = [each for each in found if each.layer not in scaled]
    return others + [OpenOutput(name, name, *ENDLESS) for name in scaled], norms


def limits_of(outputs: Sequence[OpenOutput]) -> dict[str, tuple[float, float]]:
    """Of each module that gives some: the widest, where it is called more than once."""
    found: dict[str, tuple[float, float]] = {}
    for each in outputs:
        low, high = found.get(each.module, (each.low, each.high))
        found[each.module] = min(low, each.low), max(high, each.high)
    return found


def quantize_outputs_(model: nn.Module, outputs: Sequence[OpenOutput], given: Seen, norms: Mapping[str, str]) -> None:
    """Let these go through quantizers that learn, from what the modules were seen to give; layers know their norms."""
    for name, seen in given.items():
        module = model.get_submodule(name)
        quantize_output_(module, input_quantizer("learned", format_of(OUTPUTS), *seen).to(device_of(module)))
    for name in {each.layer for each in outputs}:
        layer = cast(QuantizedLayer, model.get_submodule(name))
        layer.formats = f"{layer.formats}, {OUTPUTS} outputs"
    for name, norm in norms.items():
        cast(QuantizedLayer, model.get_submodule(name)).norm = norm
