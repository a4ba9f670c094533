"""A network that calls an output like an input: every runtime takes and answers with the names that its user knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import paring
from paring.artifact import Artifact, Manifest
from paring.backends.base import Backend
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.backends.torch import Torch
from paring.data.job import Job
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.techniques.base import Recipe
from paring.techniques.static_quantization import StaticQuantization
from paring.tune import Candidate
from paring.types import Arrays, Task

ROWS, CLASSES = 64, 16


class Same(nn.Module):
    """Refines what it is given: a step of a recurrence, say."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.state = nn.Parameter(torch.linspace(-1, 1, CLASSES))
        self.mix = nn.Linear(CLASSES, CLASSES)
        self.eval()

    def forward(self, state: Tensor, linear: Tensor) -> dict[str, Tensor]:
        return {"linear": self.mix(torch.relu(linear)) + self.state, "state": self.mix(state)}


def right(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return (outputs["state"].argmax(1) == targets).float()


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    draw = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(ROWS, CLASSES, generator=draw) for name in ("state", "linear")}
    task = Task(Same(), [(inputs, torch.zeros(ROWS, dtype=torch.int64))], metric=right)
    return Networks(Job.of(task), task_signature(task), tmp_path_factory.mktemp("networks"))


def arrays(networks: Networks) -> Arrays:
    return {name: value.numpy() for name, value in networks.job.calibrate[0][0].items()}


@pytest.mark.parametrize(
    ("backend", "recipe", "tolerance"),
    [
        (OnnxRuntime(), (), 1e-4),
        (OpenVINO(), (), 1e-4),
        (Torch(), (), 1e-4),
        (OnnxRuntime(), (StaticQuantization(),), 0.2),
    ],
    ids=["onnxruntime", "openvino", "torch", "int8"],
)
def test_answers_come_under_the_names_of_the_user(
    networks: Networks, tmp_path: Path, backend: Backend, recipe: Recipe, tolerance: float
) -> None:
    built = networks.build(Candidate(recipe, backend, "baseline"))
    inputs, signature = arrays(networks), networks.signature
    with torch.inference_mode():
        wanted = Same()(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    with IsolatedSession.of(Deployment(backend, built.network, signature), threads=1) as session:
        isolated = session.run(inputs)
    manifest = Manifest("same", signature, backend.name, backend.options(), [], "original", threads=1, batch_size=1)
    Artifact.write(tmp_path / "best", manifest, [built.network], (inputs, isolated))
    loaded = paring.load(tmp_path)
    for found in (isolated, loaded.run(inputs)):
        assert set(found) == {"linear", "state"}
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name].numpy(), atol=tolerance)
    loaded.close()
