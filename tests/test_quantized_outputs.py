"""What convolutions give is quantized too where it is read in floating point: all layers then run as integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paring.backends.base import Backend
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.graph.fake_quantized import quantized_layers, quantized_outputs
from paring.graph.learned import lifted
from paring.techniques import QuantizationAwareTraining, StaticQuantization
from tests.quantization_nets import operators
from tests.structures import trained
from tests.test_quantization_aware_training import answer_of, answers, exported, job_of, normal, untrained

RUNTIMES: tuple[Backend, ...] = (OnnxRuntime(), OpenVINO())
SAME = QuantizationAwareTraining(ends="same", epochs=1)


def block(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """(rows, 3, 8, 8) -> (rows, 5): sums of a shortcut that stays as it is and of one that is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = block(3, 8), block(8, 8), block(8, 8)
        self.three, self.four, self.side = block(8, 16, 2), block(16, 16), nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        x = torch.relu(x + self.two(functional.relu(self.one(x))))
        x = torch.relu(self.side(x) + self.four(functional.relu(self.three(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """(rows, 3, 8, 8) -> (rows, 5): a depthwise convolution between clips, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise, self.last = block(3, 8), block(8, 8, groups=8), block(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu6(self.first(image))
        return self.head((x + self.last(functional.relu6(self.depthwise(x)))).mean((2, 3)))  # type: ignore[no-any-return]


def plain() -> nn.Module:
    return nn.Sequential(
        *(*block(3, 8), nn.ReLU(), *block(8, 8), nn.ReLU(), nn.MaxPool2d(2)),
        *(*block(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)),
    )


def without_norms() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.LeakyReLU(0.1), nn.Conv2d(8, 4, 3))


class Rows(nn.Module):
    """(rows, 3, 8, 8) -> (rows, 5): linear layers of which sums read, as they are and through rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.normal = nn.Linear(192, 16), nn.BatchNorm1d(16)
        self.one, self.two, self.three = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image.flatten(1))
        x = x + torch.relu(self.normal(self.one(x)))
        x = x + functional.relu6(self.two(x))
        return self.head(torch.tanh(self.two(torch.relu(self.three(x)))))  # type: ignore[no-any-return]


NETWORKS = {"residual": Residual, "rows": Rows, "depthwise": Depthwise, "plain": plain, "without norms": without_norms}
CALLS = {"rows": 6}
"""Where a layer is called twice."""

FORMATS = (("int8", "uint8"), ("int4", "uint4"), ("int4", "int4"), ("ternary", "uint1"), ("binary", "binary"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("weights", "activations"), FORMATS)
def test_every_layer_runs_as_integers_and_answers_as_it_was_trained(
    name: str, weights: str, activations: str, tmp_path: Path
) -> None:
    """Within a step of 8 bits of the range of the answers; hardly any row may have a value between two levels."""
    model, inputs = trained(NETWORKS[name]()), normal(64, 3, 8, 8)
    after = untrained(replace(SAME, weights=weights, activations=activations), model, inputs)
    graph = exported(after, inputs)
    wanted = answer_of(after, inputs)
    for backend in RUNTIMES:
        error = np.abs(answers(backend, graph, inputs, tmp_path) - wanted).reshape(len(inputs), -1).max(1)
        executed = backend.executed(tmp_path / "network.onnx")
        assert set(map(str, executed)) == {"integers"}
        assert len(executed) == CALLS.get(name, len(list(quantized_layers(after))))
        assert (error > np.ptp(wanted) / 255).sum() <= 1


def test_only_what_is_read_in_floating_point_is_quantized_once_more() -> None:
    model, inputs = trained(Residual()), normal(16, 3, 8, 8)
    technique = replace(SAME, activations="uint4")
    after = untrained(technique, model, inputs)
    layers = technique.coverage(model, after, job_of(model, inputs)).layers
    told = {layer.layer: layer.reason for layer in layers if layer.reason.endswith(", uint8 outputs")}
    assert list(told) == ["first.0", "two.0", "four.0", "side"]
    assert told["side"] == "int4 weights, uint4 inputs, uint8 outputs"
    holders = [name for name, module in after.named_modules() if module in list(quantized_outputs(after))]
    assert holders == ["first.1", "two.1", "four.1", "side"]
    signed = [module.output_quantizer.zero_point > 0 for module in quantized_outputs(after)]  # type: ignore[union-attr]
    assert signed == [False, True, True, True]  # All that is read of the first one is what a rectifier leaves.
    assert not list(quantized_outputs(untrained(replace(SAME, activations="float"), model, inputs)))
    kept = untrained(replace(technique, exclude=("two.0",)), model, inputs)
    assert not hasattr(kept.two[1], "output_quantizer")  # type: ignore[index]


def test_what_gives_no_gradient_is_quantized_wherever_it_goes() -> None:
    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = torch.relu(self.one(x))
            return self.two(x)  # type: ignore[no-any-return]

    after = untrained(SAME, trained(Quiet()), normal(8, 3, 8, 8))
    assert len(list(quantized_outputs(after))) == 2


def test_the_steps_of_outputs_learn_and_keep_8_bits() -> None:
    model, inputs = trained(Residual()), normal(32, 3, 8, 8)
    technique = QuantizationAwareTraining(epochs=2, weights="int3", activations="uint3", progressive=True)
    before, after = untrained(technique, model, inputs), technique.apply(model, job_of(model, inputs))
    steps = [[each.output_quantizer.scale for each in quantized_outputs(network)] for network in (before, after)]  # type: ignore[union-attr]
    assert all(one != other for one, other in zip(*steps, strict=True))
    assert {each.output_quantizer.high for each in quantized_outputs(after)} == {255}  # type: ignore[union-attr]


def test_a_static_quantization_behind_it_takes_the_scales_of_outputs_as_learned() -> None:
    model, inputs = trained(Residual()), normal(32, 3, 8, 8)
    after = untrained(replace(SAME, activations="uint4"), model, inputs)
    graph = exported(after, inputs)
    editable, learned = lifted(graph, "StaticQuantization")
    assert not {"QuantizeLinear", "DequantizeLinear", "Max"} & set(operators(editable.finished()))
    scales = {float(module.output_quantizer.scale) for module in quantized_outputs(after)}  # type: ignore[union-attr,arg-type]
    assert {float(each.scale) for each in learned.outputs.values()} == scales
    for placement in ("every-edge", "inputs-only"):
        whole = StaticQuantization(placement=placement).apply(graph, job_of(model, inputs))  # type: ignore[arg-type]
        constants = [onnx.numpy_helper.to_array(each) for each in whole.graph.initializer]
        assert scales <= {float(each) for each in constants if each.shape == () and each.dtype == np.float32}
