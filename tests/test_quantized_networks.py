"""Networks that PyTorch has quantized already: refused in one sentence, through every door, and float ones are not."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.copies import copied
from paring.graph.quantized import told_quantized
from paring.techniques import (
    FineTune,
    GradualPruning,
    IterativePruning,
    PruneChannels,
    PruneWeights,
    QuantizationAwareTraining,
    RegularisedTraining,
    RemoveBlocks,
)
from paring.techniques.base import ModuleTechnique
from paring.types import Task
from tests.command_line import refused, task_file, typed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

REMEDY = "Give the float network from before that; paring quantizes by itself."
ROWS = torch.rand(400, 6)


class Net(nn.Module):
    """A sum that eager quantization would count in integers, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.add = nn.Linear(6, 6), torch.ao.nn.quantized.FloatFunctional()
        self.head = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.add.add(x, self.body(x)), self.head)


def dynamic() -> nn.Module:
    body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return quantization.quantize_dynamic(body.eval(), {"2": quantization.default_dynamic_qconfig}, dtype=torch.qint8)


def eager(*, trained: bool = False, converted: bool = True) -> nn.Module:
    model = nn.Sequential(quantization.QuantStub(), nn.Linear(6, 3), quantization.DeQuantStub())
    model = model.train(trained)
    model.qconfig = quantization.get_default_qat_qconfig() if trained else quantization.default_qconfig  # type: ignore[assignment]
    prepared = (quantization.prepare_qat if trained else quantization.prepare)(model)
    prepared(ROWS)
    return (quantization.convert(prepared) if converted else prepared).eval()


def traced() -> nn.Module:
    """The weight of `Net` is packed by the graph itself, in no module."""
    mapping = quantization.QConfigMapping().set_object_type(nn.functional.linear, quantization.default_qconfig)
    prepared = quantize_fx.prepare_fx(Net().eval(), mapping, (ROWS,))
    prepared(ROWS)
    return quantize_fx.convert_fx(prepared)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (dynamic, "'2' (torch.ao.nn.quantized.dynamic.modules.linear.Linear)."),
        (eager, "'0' (torch.ao.nn.quantized.modules.Quantize) and 2 more."),
        (lambda: eager(converted=False), "'0.activation_post_process' (torch.ao.quantization.observer.MinMaxObserver)"),
        (
            lambda: eager(trained=True, converted=False),
            "'0.activation_post_process' (torch.ao.quantization.fake_quantize.",
        ),
        (lambda: eager(trained=True), "'0' (torch.ao.nn.quantized.modules.Quantize) and 2 more."),
        (traced, "a weight of __torch__.torch.classes.quantized.LinearPackedParamsBase."),
    ],
    ids=["dynamic", "static", "observed", "fake", "trained", "traced"],
)
def test_what_is_quantized_is_named(model: Any, named: str) -> None:
    sentence = told_quantized(model())
    assert sentence.startswith(f"the network is quantized already, or prepared for it: {named}")
    assert sentence.endswith(REMEDY)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_is_none_of_it_nor_are_marks_of_what_may_be_quantized_one_day(kind: torch.dtype) -> None:
    marked = nn.Sequential(quantization.QuantStub(), Net(), quantization.DeQuantStub()).to(kind)
    assert told_quantized(marked) == ""
    assert isinstance(copied(marked)[1], Net)  # type: ignore[index]


@pytest.mark.parametrize(
    "technique",
    [
        PruneWeights(0.5),
        PruneChannels(0.5),
        RemoveBlocks(),
        FineTune(epochs=1),
        GradualPruning(epochs=1),
        IterativePruning(epochs=1),
        RegularisedTraining(epochs=1),
        QuantizationAwareTraining(epochs=1),
    ],
    ids=lambda technique: technique.name,
)
def test_no_technique_changes_what_is_left_in_floating_point(technique: ModuleTechnique) -> None:
    """The first layer of this network is no integer one, and could be pruned or trained."""
    model = dynamic()
    batches = [(ROWS, model(ROWS).argmax(1))]
    before = copy.deepcopy(model.state_dict()["0.weight"])
    with pytest.raises(TechniqueError, match=r"quantized already.*'2'.*paring quantizes by itself"):
        technique.apply(model, Job.of(Task(model, batches, train=batches), threads=1))
    assert torch.equal(model.state_dict()["0.weight"], before)


TASK = """
import warnings
from torch.ao import quantization
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    network = quantization.quantize_dynamic(body, {nn.Linear}, dtype=torch.qint8)
rows = torch.randn(400, 6)
task = paring.Task(network, [(rows, network(rows).argmax(1))])
"""


@pytest.mark.parametrize("words", [["optimize"], ["optimize", "--plan"], ["sensitivity"]], ids=" ".join)
def test_every_command_says_it_in_one_sentence(tmp_path: Path, words: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sentence = refused(typed(*words, task_file(tmp_path, TASK), "--out", tmp_path / "out"))
    assert sentence == (
        "paring: the network is quantized already, or prepared for it: "
        f"'0' (torch.ao.nn.quantized.dynamic.modules.linear.Linear) and 1 more. {REMEDY}"
    )
