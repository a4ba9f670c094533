"""CONTRIBUTING.md, followed: a technique and a backend of somebody else's, used without touching paring."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import paring
from paring.backends.base import Backend, NetworkFormat
from paring.backends.splitting import SplitSession
from paring.data.job import Job
from paring.errors import BackendError, TechniqueError
from paring.graph.macs import layer_costs
from paring.graph.signature import graph_signature
from paring.settings import check_types
from paring.techniques.base import ModuleTechnique
from paring.testing import BACKEND_CHECKS, check_technique
from paring.types import Arrays, Budget, Coverage, LayerChange, Session
from tests import sleepy

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


@dataclass(frozen=True)
class ZeroSmall(ModuleTechnique):
    """Weights below `threshold` become 0 (Han et al. 2015, by magnitude)."""

    threshold: float = 0.05

    def __post_init__(self) -> None:
        check_types(self)
        if self.threshold < 0:
            raise TechniqueError(f"threshold={self.threshold} must be 0 or more.")

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        after = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in after.parameters():
                parameter[parameter.abs() < self.threshold] = 0
        return after

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        costs = layer_costs(before, job.calibrate[0][0])
        return Coverage(
            self.name,
            tuple(LayerChange(name, True, "small weights are zero", c.parameters, c.macs) for name, c in costs.items()),
        )

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class InPlace(ZeroSmall):
    """Breaks the contract: the network that it was given is changed."""

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        return model.requires_grad_(False)


@dataclass(frozen=True)
class Reference(Backend):
    """ONNX's own reference implementation: slow and right."""

    name: ClassVar[str] = "reference"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "onnx"

    @classmethod
    def available(cls) -> str | None:
        return None

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        try:
            graph = onnx.load(network)
            evaluator = ReferenceEvaluator(graph)
        except Exception as error:
            raise BackendError(f"the reference can't load {network.name}: {error}") from error
        names = [value.name for value in graph.graph.output]

        def run(inputs: Arrays) -> Arrays:
            return dict(zip(names, evaluator.run(names, inputs), strict=True))

        return SplitSession(self.name, [run], graph_signature(graph.graph, "dict").inputs)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Elsewhere(Reference):
    """Its runtime is nowhere to be found."""

    name: ClassVar[str] = "elsewhere"

    @classmethod
    def available(cls) -> str | None:
        return "its runtime is not installed: pip install elsewhere."


def installed(folder: Path) -> dict[str, str]:
    """The environment of a machine with a package whose entry points give all of them their names."""
    package = folder / "extension-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: extension\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[paring.techniques]\nZeroSmall = tests.test_contributing:ZeroSmall\n"
        "[paring.backends]\nreference = tests.test_contributing:Reference\n"
        "elsewhere = tests.test_contributing:Elsewhere\n"
    )
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("heading", ["Add a technique in ten steps", "Add a backend in ten steps"])
def test_there_are_ten_steps(heading: str) -> None:
    section = GUIDE.split(f"## {heading}")[1].split("##")[0]
    assert [line.split(".")[0] for line in section.splitlines() if line[:1].isdigit()] == [str(n) for n in range(1, 11)]


def test_the_technique_keeps_the_contract() -> None:
    points, classes = sleepy.rows(64)
    task = paring.Task(sleepy.network(), [(points, classes)])
    check_technique(ZeroSmall(), sleepy.network(), Job.of(task))
    with pytest.raises(AssertionError, match="InPlace returned its input"):
        check_technique(InPlace(), sleepy.network(), Job.of(task))


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_the_backend_keeps_the_contract(check: object, tmp_path: Path) -> None:
    assert callable(check)
    check(Reference(), tmp_path)


@pytest.mark.usefixtures("short_comparisons")
def test_both_are_used_as_objects(tmp_path: Path) -> None:
    result = paring.optimize(
        sleepy.task(),
        out=tmp_path,
        time_limit_s=600,
        techniques=[ZeroSmall()],
        backends=[Reference()],
        threads=1,
        progress=False,
    )
    trials = {trial.recipe_text: trial for trial in result.trials}
    assert trials["original"].outcome == "measured"
    assert trials["ZeroSmall"].outcome == "measured"
    assert trials["ZeroSmall"].drop == 0


def test_doctor_reports_installed_ones_and_why_a_runtime_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paring", "doctor", "--json"]
    told = subprocess.run(command, env=installed(tmp_path), check=True, capture_output=True, text=True).stdout
    reasons = {row["name"]: row["reason"] for row in json.loads(told)["backends"]}
    assert not reasons["reference"]
    assert reasons["elsewhere"] == "its runtime is not installed: pip install elsewhere."


def test_installed_ones_are_used_by_name(tmp_path: Path) -> None:
    (tmp_path / "their_task.py").write_text("from tests import sleepy\ntask = sleepy.task()\n")
    command = [sys.executable, "-m", "paring", "optimize", f"{tmp_path / 'their_task.py'}:task", "--plan", "--json"]
    command += ["--techniques", "ZeroSmall", "--backends", "reference", "--out", str(tmp_path / "out")]
    told = subprocess.run(command, env=installed(tmp_path), check=True, capture_output=True, text=True).stdout
    plan = json.loads(told)
    assert plan["tried"][0] == {"stage": "baseline", "recipe": "original", "backend": "reference"}
    assert [row["what"] for row in plan["not_tried"]] == ["ZeroSmall"]
