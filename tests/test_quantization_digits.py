"""The main use on real data: a network trained on digits, exported by torch, quantized, and its accuracy kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from paring.data.job import Job
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques.base import GraphTechnique
from paring.techniques.dynamic_quantization import DynamicQuantization
from paring.techniques.half_precision import HalfPrecision
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.static_quantization import StaticQuantization
from paring.types import Task
from tests.quantization_nets import operators, run


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU6(),
        Residual(16),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Trained:
    graph: onnx.ModelProto
    job: Job
    images: np.ndarray
    labels: np.ndarray

    def accuracy(self, graph: onnx.ModelProto) -> float:
        return float((run(graph, self.images)[0].argmax(1) == self.labels).mean())


@pytest.fixture(scope="module", params=[convolutional, perceptron], ids=["convolutional", "perceptron"])
def trained(request: pytest.FixtureRequest) -> Trained:
    data = load_digits()
    images = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:]
    torch.manual_seed(0)
    net = request.param()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(12):
        for rows in train.split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    net.eval()
    graph = export_onnx(export_program(net, images[:2]), signature_of(net, images[:2]))
    job = Job.of(Task(net, [(images[train[:256]], None)]), threads=1)
    return Trained(graph, job, images[test].numpy(), labels[test].numpy())


@pytest.mark.parametrize(
    "technique",
    [
        *(StaticQuantization(calibration) for calibration in ("min-max", "percentile", "entropy", "mse")),
        StaticQuantization("mse", placement="inputs-only"),
        StaticQuantization("mse", per_channel=False),
        DynamicQuantization(least_parameters=0),
        HalfPrecision("bf16"),
        HalfPrecision("fp16"),
        MixedPrecision(StaticQuantization("mse"), 1),
    ],
    ids=str,
)
def test_accuracy_is_kept(trained: Trained, technique: GraphTechnique) -> None:
    original = trained.accuracy(trained.graph)
    assert original > 0.9
    graph = technique.apply(trained.graph, trained.job)
    onnx.checker.check_model(graph, full_check=True)
    assert trained.accuracy(graph) > original - 0.02
    coverage = technique.coverage(trained.graph, graph, trained.job)
    assert coverage.changed > 0
    assert all(layer.changed != bool(layer.reason) for layer in coverage.layers)


def test_weights_take_a_quarter_of_the_bytes(trained: Trained) -> None:
    weights = sum(int(np.prod(t.dims)) * 4 for t in trained.graph.graph.initializer if len(t.dims) > 1)
    graph = StaticQuantization().apply(trained.graph, trained.job)
    stored = {t.name: len(t.raw_data) for t in graph.graph.initializer if len(t.dims) > 1 and t.data_type == 3}
    assert sum(stored.values()) == weights // 4
    # Beside weights there are 12 bytes a channel and a fixed part a node.
    assert graph.ByteSize() < trained.graph.ByteSize() - 3 * weights // 4 + 500 * len(graph.graph.node)


def test_every_layer_is_between_integers(trained: Trained) -> None:
    graph = StaticQuantization().apply(trained.graph, trained.job)
    made = {name: node for node in graph.graph.node for name in node.output}
    layers = [node for node in graph.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(layers) == operators(trained.graph)["Conv"] + operators(trained.graph)["Gemm"]
    for layer in layers:
        assert made[layer.input[0]].op_type == made[layer.input[1]].op_type == "DequantizeLinear"
