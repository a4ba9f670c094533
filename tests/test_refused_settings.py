"""Settings that their technique refuses as it is applied: bad input where all that was asked for is so, else a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import onnx
import pytest
import torch
from torch import Tensor, nn

import paring
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.ops.importance import Evidence
from paring.techniques import FineTune, PruneChannels, PruneWeights, SmoothQuant, StaticQuantization
from paring.techniques.base import ModuleTechnique
from paring.types import Coverage
from tests import sleepy

pytestmark = pytest.mark.usefixtures("short_comparisons")


def nan(evidence: Evidence) -> Tensor:
    return evidence.weight * torch.nan


def misshapen(evidence: Evidence) -> Tensor:
    return evidence.weight[:2]


@dataclass(frozen=True)
class Buggy(ModuleTechnique):
    """Fails in code of its own."""

    size: int = 1

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        raise KeyError("a bug of the author's")

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        raise NotImplementedError

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        return iter(())


@dataclass(frozen=True)
class Hungry(Buggy):
    """Finds too little memory, and says so in a sentence."""

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        try:
            raise MemoryError
        except MemoryError as error:
            raise TechniqueError("it could not be traced.") from error


@dataclass(frozen=True)
class Stubborn(sleepy.Cheapen):
    """Proposes settings that it refuses."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        raise TechniqueError("it changed its mind.")


def optimized(out: Path, *techniques: Any, task: paring.Task | None = None) -> paring.Result:
    return paring.optimize(
        task or sleepy.task(), out=out, techniques=techniques, backends=[sleepy.Sleepy()], threads=1, progress=False
    )


@pytest.mark.parametrize(
    ("technique", "says"),
    [
        (PruneWeights(0.5, criterion=misshapen), r"the criterion gave shape \(2, 6\) for ''"),
        ((PruneWeights(0.5, criterion="norm_scale"), sleepy.Cheapen()), "the criterion judges whole channels of ''"),
    ],
    ids=["alone", "recipe"],
)
def test_what_alone_was_asked_for_and_is_refused_is_bad_input(tmp_path: Path, technique: Any, says: str) -> None:
    with pytest.raises(TechniqueError, match=says) as refusal:
        optimized(tmp_path, technique)
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)


def test_it_is_refused_again_where_its_row_is_there_already(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TechniqueError, match="the criterion gave nan"):
            optimized(tmp_path, PruneWeights(0.5, criterion=nan))


def test_the_reasons_of_several_are_told_each_once(tmp_path: Path) -> None:
    with pytest.raises(TechniqueError, match=r"^the criterion gave nan .* finite; the criterion gave shape [^;]*\.$"):
        optimized(
            tmp_path, PruneWeights(criterion=nan), PruneWeights(0.2, criterion=nan), PruneWeights(criterion=misshapen)
        )


def test_beside_what_can_be_tried_it_is_a_row(tmp_path: Path) -> None:
    result = optimized(tmp_path, PruneWeights(0.5, criterion=nan), sleepy.Cheapen())
    assert result.status == "improved"
    (row,) = (trial for trial in result.trials if trial.recipe_text.startswith("PruneWeights"))
    assert row.outcome == "failed"
    assert "the criterion gave nan" in row.reason


@pytest.mark.parametrize("technique", [Buggy(), Hungry(), Stubborn], ids=["bug", "memory", "class"])
def test_what_is_not_the_user_s_fault_keeps_the_original(tmp_path: Path, technique: Any) -> None:
    assert optimized(tmp_path, technique).status == "kept-original"


FOUR_BITS = StaticQuantization(activations="uint4")
NO_KERNEL = "sleepy does not run int8, 4-bit inputs on this machine (no kernel): use openvino."


@pytest.mark.parametrize(
    "asked", [(FOUR_BITS,), ((SmoothQuant(), FOUR_BITS),), (FOUR_BITS, (SmoothQuant(), FOUR_BITS))], ids=len
)
def test_what_no_kernel_runs_is_bad_input_where_nothing_else_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[Any, ...]
) -> None:
    monkeypatch.setattr("paring.tune.proposing.flaw", lambda kind, form: NO_KERNEL)
    with pytest.raises(TechniqueError, match=r"^nothing that was asked for can be tried \(") as refusal:
        optimized(tmp_path, *asked)
    assert refusal.value.exit_code == 2
    assert str(refusal.value).endswith(f"{FOUR_BITS} on sleepy: {NO_KERNEL[:-1]}).")
    assert str(refusal.value).count("no kernel") == 1


def test_beside_what_runs_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paring.tune.proposing.flaw", lambda kind, form: NO_KERNEL)
    result = optimized(tmp_path, FOUR_BITS, sleepy.Cheapen())
    assert result.status == "improved"
    assert {"what": f"{FOUR_BITS} on sleepy", "reason": NO_KERNEL} in result.values["not_tried"]


def test_a_training_with_nothing_to_mend_is_bad_input_where_it_was_given_with_its_settings(tmp_path: Path) -> None:
    task = replace(sleepy.task(), train=sleepy.task().evaluate)
    told = r"^nothing that was asked for can be tried \(FineTune\(epochs=3\): it makes nothing smaller itself"
    with pytest.raises(TechniqueError, match=told):
        optimized(tmp_path, FineTune(epochs=3), task=task)


def test_a_survey_tells_why_its_first_part_failed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(sleepy.FEATURES, 16), nn.ReLU(), nn.Linear(16, sleepy.CLASSES)).eval()
    task = paring.Task(network, sleepy.task().evaluate)
    with pytest.raises(TechniqueError, match=r"measured \(PruneChannels\(.*\): the criterion gave nan [^;]*\)\.$"):
        paring.sensitivity(
            task,
            out=tmp_path,
            techniques=[PruneChannels(criterion=nan)],
            backends=[sleepy.Sleepy()],
            threads=1,
            progress=False,
        )
