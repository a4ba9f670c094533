"""What `optimize` may be told to try: names, classes, objects. What could never be tried or written down is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import paring
from paring.backends.base import Backend
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.torch import Torch
from paring.data.job import Job
from paring.errors import InputError
from paring.flow import optimize
from paring.techniques.base import ModuleTechnique, Technique, TrainingTechnique
from paring.techniques.fine_tune import FineTune
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.static_quantization import StaticQuantization
from tests import refusing, sleepy
from tests.worlds import Narrow


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`paring.optimize` up to where the run would begin: what it was asked."""
    monkeypatch.setattr(optimize, "run", lambda request: request)

    def ask(**given: Any) -> Any:
        return paring.optimize(sleepy.task(), out=Path("never-made"), **given)

    return ask


def test_names_stand_for_classes_beside_classes_and_objects(asked: Any) -> None:
    tuned = FineTune(epochs=3)
    request = asked(
        techniques=["static-quantization", PruneChannels, tuned], backends=(each for each in ("onnxruntime", Torch()))
    )
    assert request.techniques == (StaticQuantization, PruneChannels, tuned)
    assert request.backends == (OnnxRuntime, Torch())
    assert asked().techniques is None


class Plain(refusing.Unapplied):
    """No dataclass."""


@dataclass(frozen=True)
class Endless(Narrow, TrainingTechnique):
    """Trains, and can't be told for how long."""


@dataclass(frozen=True)
class Half(ModuleTechnique):
    """Says what it does and not to what."""

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        raise NotImplementedError


@dataclass(frozen=True)
class Kindless(Technique):
    """Of no kind that is ever applied."""


@dataclass(frozen=True)
class Cheapen(sleepy.Cheapen):
    """Called like another one."""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"techniques": ["FineTunes"]},
            "no technique is called 'FineTunes': did you mean FineTune?",
        ),
        ({"backends": ["onnx-runtimes"]}, "no backend is called 'onnx-runtimes': did you mean onnxruntime?"),
        (
            {"techniques": "StaticQuantization"},
            "techniques='StaticQuantization' is no list: write techniques=[...] around it.",
        ),
        ({"techniques": StaticQuantization()}, "is no list: write techniques=[...] around it."),
        ({"backends": Torch}, "torch.Torch'> is no list: write backends=[...] around it."),
        (
            {"techniques": [7]},
            "techniques holds 7: give the name, the class or an object of a ModuleTechnique or Graph",
        ),
        ({"techniques": [Torch()]}, "techniques holds Torch(compiled=False, channels_last=False"),
        (
            {"techniques": [Half]},
            "the technique Half lacks coverage, variants: write what it inherits only the name of.",
        ),
        (
            {"techniques": [Plain]},
            "the technique Plain is no frozen dataclass: write @dataclass(frozen=True) above it.",
        ),
        ({"techniques": [Kindless()]}, "techniques holds Kindless(): give the name, the class or an object"),
        (
            {"techniques": [Endless]},
            "Endless trains and has no field `epochs`: add one, the passes over `train`.",
        ),
        (
            {"backends": [StaticQuantization]},
            "static_quantization.StaticQuantization'>: give the name, the class or an object of a Backend.",
        ),
        ({"backends": [Backend]}, "the backend Backend lacks available, load"),
        (
            {"techniques": [Cheapen, sleepy.Cheapen()]},
            "Cheapen is called 'Cheapen' like tests.test_request.Cheapen: give",
        ),
        ({"techniques": [()]}, "techniques holds an empty recipe: name its techniques, or leave it out."),
        (
            {"techniques": [(PruneChannels(), StaticQuantization)]},
            "StaticQuantization'>: give objects, as PruneChannels(ratio=0.5).",
        ),
        (
            {"techniques": [(StaticQuantization(), PruneChannels())]},
            "PruneChannels changes the module and stands behind StaticQuantization, which changes the graph: put",
        ),
    ],
    ids=range(17),
)
def test_what_is_no_technique_or_backend_is_refused(asked: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        asked(**given)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("technique", "says"),
    [
        (
            sleepy.Cheapen(np.float32(0.5)),  # type: ignore[arg-type]
            "cost_ms=np.float32(0.5) of Cheapen can't be stored as JSON: give a plain finite number",
        ),
        (sleepy.Cheapen(float("inf")), "cost_ms=inf of Cheapen can't be stored as JSON"),
        (refusing.Foldered(), "folder=PosixPath('cache') of Foldered can't be stored as JSON"),
    ],
    ids=range(3),
)
def test_a_technique_whose_trials_could_not_be_written_down_is_refused(
    asked: Any, technique: Technique, says: str
) -> None:
    with pytest.raises(InputError) as error:
        asked(techniques=[technique])
    assert says in str(error.value)


def test_a_criterion_of_any_kind_can_be_written_down(asked: Any) -> None:
    assert asked(techniques=[PruneChannels(criterion=lambda evidence: evidence.weight.sum(1))]).techniques
