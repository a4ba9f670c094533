"""Backends of a user's own: objects with settings that they need; what an artifact can't name is refused at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import paring
from paring.backends.probe import Probe, probe
from paring.backends.torch import Torch
from paring.errors import ArtifactError, BackendError, InputError
from paring.flow.request import Request
from paring.types import Budget
from tests import sleepy
from tests.sleepy_backend import Remote, Sleepy
from tests.test_verify import INPUTS, changed, graph, written


@dataclass(frozen=True)
class Foldered(Sleepy):
    name: ClassVar[str] = "foldered"
    cache: Path = Path("cache")


@dataclass(frozen=True)
class Listed(Sleepy):
    name: ClassVar[str] = "listed"
    cores: frozenset[int] = field(default_factory=frozenset)

    def options(self) -> dict[str, Any]:
        return {"cores": sorted(self.cores)}


@dataclass(frozen=True)
class Impostor(Sleepy):
    name: ClassVar[str] = "onnxruntime"


def test_an_object_is_probed_with_its_own_options() -> None:
    works, silent, plain = probe([Remote("here"), Remote("there"), Remote])
    assert works.reason is None
    assert silent.reason is not None
    assert "nobody answers at there" in silent.reason
    assert plain.reason is not None
    assert "the backend remote needs the option 'address': pass an object that has it" in plain.reason


@pytest.mark.usefixtures("short_comparisons")
def test_objects_of_one_backend_stand_each_for_its_own_options(tmp_path: Path) -> None:
    result = paring.optimize(
        sleepy.task(),
        out=tmp_path,
        time_limit_s=120,
        techniques=[],
        backends=[Remote("there"), Remote("here"), Remote("here", port=1)],
        threads=1,
        progress=False,
    )
    (gone,) = result.values["unavailable"]
    assert gone["backend"] == "remote(address=there)"
    assert "nobody answers at there" in gone["reason"]
    measured = {trial.backend_text for trial in result.trials if trial.outcome == "measured"}
    assert measured == {"remote(address=here)", "remote(address=here, port=1)"}


def test_what_one_object_lacks_is_not_held_against_another(tmp_path: Path) -> None:
    eager, compiled = Torch(), Torch(compiled=True)
    request = Request(sleepy.task(), Budget(), tmp_path, backends=[eager, compiled, Torch])
    unusable = request.unusable([Probe("torch", None), Probe("torch", "no compiler"), Probe("torch", None)])
    assert unusable == {"torch(compiled=True)": "no compiler"}
    assert request.usable_backends(unusable) == (eager, Torch)


def test_its_artifact_is_loaded_again_with_its_options(tmp_path: Path) -> None:
    artifact = written(tmp_path / "best", graph(1.0), "Cheapen", backend="remote")
    changed(artifact.path, options=Remote("here").options())
    with pytest.raises(BackendError, match="pass its class"):
        paring.load(tmp_path)
    assert (paring.load(tmp_path, backends=[Remote]).run(INPUTS)["y"] == INPUTS["a"] + 1).all()
    changed(artifact.path, options={})
    with pytest.raises(ArtifactError, match="the backend remote needs the option 'address'"):
        paring.load(tmp_path, backends=[Remote])


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        (Foldered(), r"cache=PosixPath\('cache'\) of foldered can't be stored as JSON: give a plain finite number"),
        (Listed(frozenset({1, 2})), r"comes back from JSON as .*: let its options be plain values"),
        (Impostor(), r"Impostor is called 'onnxruntime' like paring.backends.onnxruntime.OnnxRuntime: give it a name"),
        (Impostor, r"Impostor is called 'onnxruntime' like paring.backends.onnxruntime.OnnxRuntime: give it a name"),
    ],
)
def test_what_an_artifact_could_not_name_is_refused_at_the_start(tmp_path: Path, backend: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Request(sleepy.task(), Budget(), tmp_path, backends=[backend])
