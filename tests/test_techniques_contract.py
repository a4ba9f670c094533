"""Every technique keeps the contract that the search relies on, on networks of different kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import onnx
import pytest
import torch
from torch import nn

from paring import registry
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.techniques.awq import AWQ
from paring.techniques.base import Technique
from paring.techniques.bit_allocation import BitAllocation
from paring.techniques.cross_layer_equalization import CrossLayerEqualization
from paring.techniques.dynamic_quantization import DynamicQuantization
from paring.techniques.fine_tune import FineTune
from paring.techniques.gradual_pruning import GradualPruning
from paring.techniques.half_precision import HalfPrecision
from paring.techniques.iterative_pruning import IterativePruning
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.techniques.quantization_aware_training import QuantizationAwareTraining
from paring.techniques.regularised_training import RegularisedTraining
from paring.techniques.remove_blocks import RemoveBlocks
from paring.techniques.smooth_quant import SmoothQuant
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.weight_quantization import WeightQuantization
from paring.testing.techniques import check_technique, check_variants
from paring.types import Task


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Residual(16), Residual(16), *head), (3, 8, 8)


def transformer() -> tuple[nn.Module, tuple[int, ...]]:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(6 * 32, 5)), (6, 32)


def job(network: nn.Module, shape: tuple[int, ...]) -> Job:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(64, *shape, generator=generator)
    with torch.no_grad():
        labels = network(rows).argmax(1)
    data = [(rows[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    return Job.of(Task(network, evaluate=data, train=data), threads=1)


CASES = [
    (StaticQuantization(), convolutional),
    (StaticQuantization("entropy", placement="inputs-only"), convolutional),
    (StaticQuantization("percentile"), transformer),
    (DynamicQuantization(least_parameters=0), transformer),
    (WeightQuantization(least_parameters=0), convolutional),
    (WeightQuantization("nf4", 16), transformer),
    (HalfPrecision("fp16"), convolutional),
    (HalfPrecision("bf16"), transformer),
    (MixedPrecision(float_layers=2), convolutional),
    (BitAllocation(mean_bits=3.0), convolutional),
    (BitAllocation(mean_bits=4.0, sensitivity="weights"), transformer),
    (StaticQuantization("mse", weights="int4", activations="uint6", rounding="gptq", scales="mse"), convolutional),
    (StaticQuantization(weights="ternary", bias_correction=True, scales="mse"), transformer),
    (SmoothQuant(), transformer),
    (CrossLayerEqualization(), convolutional),
    (CrossLayerEqualization(), transformer),
    (AWQ(), transformer),
    (AWQ("uint3", None, scales="hqq"), convolutional),
    (PruneChannels(0.5), convolutional),
    (PruneChannels(0.5), transformer),
    (RemoveBlocks(count=1), convolutional),
    (PruneChannels(0.5, "taylor"), convolutional),
    (PruneWeights(0.7, scope="global"), transformer),
    (PruneWeights(pattern="2:4", criterion="wanda", reconstruct=True), convolutional),
    (GradualPruning(epochs=1, prune=PruneWeights(0.5)), convolutional),
    (RegularisedTraining(epochs=1, penalty="group_lasso"), convolutional),
    (IterativePruning(epochs=2, rounds=2, prune=PruneChannels(0.5)), convolutional),
    (FineTune(epochs=1), convolutional),
    (QuantizationAwareTraining(epochs=1), convolutional),
    (QuantizationAwareTraining(epochs=1, weights="ternary", activations="float"), transformer),
    (QuantizationAwareTraining(epochs=1, formats=BitAllocation(mean_bits=3.0)), convolutional),
    (QuantizationAwareTraining(epochs=1, formats=BitAllocation(mean_bits=4.0)), transformer),
    (QuantizationAwareTraining(epochs=1, weights="ternary", estimator="ttq"), transformer),
    (QuantizationAwareTraining(epochs=1, weights="ternary", estimator="twn"), convolutional),
    (QuantizationAwareTraining(epochs=1, weights="odd3", estimator="dorefa"), convolutional),
    (QuantizationAwareTraining(epochs=1, activations="binary", input_estimator="xnor"), convolutional),
]


@pytest.mark.parametrize(("technique", "network"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_contract(technique: Technique, network: object) -> None:
    torch.manual_seed(0)
    assert callable(network)
    model, shape = network()
    model.eval()
    check_technique(technique, model, job(model, shape))


@dataclass(frozen=True)
class Late(HalfPrecision):
    """Says that it has no variants after the first."""

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls()
        raise TechniqueError("no more of them.")


@dataclass(frozen=True)
class Early(HalfPrecision):
    """Says so as it is called, not as it is iterated."""

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        raise TechniqueError("none at all.")


def test_a_reason_why_there_are_no_variants_keeps_the_contract_and_one_behind_them_breaks_it() -> None:
    model, shape = nn.Linear(6, 3).eval(), (6,)
    check_technique(DynamicQuantization(least_parameters=0), model, job(model, shape))
    graph = onnx.ModelProto()
    check_variants(Early(), lambda: Early.variants(graph, job(model, shape)))
    with pytest.raises(AssertionError, match="Late raises after 1 of its variants: no more of them"):
        check_variants(Late(), lambda: Late.variants(graph, job(model, shape)))


def test_every_named_technique_is_here() -> None:
    named = {registry.find("technique", name) for name in registry.names("technique")}
    assert named == {type(technique) for technique, _ in CASES}
