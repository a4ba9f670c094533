"""Techniques and backends as people type them: names, and names with settings as reports print them."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from torch import nn

from paring import registry
from paring.backends.onnxruntime import OnnxRuntime
from paring.cli.chosen import chosen
from paring.data.job import Job
from paring.errors import ParingError
from paring.techniques import (
    BitAllocation,
    FineTune,
    GradualPruning,
    IterativePruning,
    MixedPrecision,
    PruneChannels,
    PruneWeights,
    QuantizationAwareTraining,
    RegularisedTraining,
    StaticQuantization,
)
from paring.techniques.base import Technique, described
from paring.types import Task


def test_names_are_classes_and_names_with_settings_are_objects() -> None:
    found = chosen("technique", "prune-channels, FineTune(epochs=5, learning_rate=0.1),staticquantization")
    assert found == [PruneChannels, FineTune(epochs=5, learning_rate=0.1), StaticQuantization]
    assert chosen("technique", None) is None
    assert chosen("backend", "onnxruntime(threads=1)") == [OnnxRuntime(threads=1)]


def test_a_recipe_is_one_after_the_other() -> None:
    found = chosen("technique", "PruneChannels(ratio=0.25)+FineTune(epochs=2) + StaticQuantization, StaticQuantization")
    assert found == [(PruneChannels(0.25), FineTune(epochs=2), StaticQuantization()), StaticQuantization]


@pytest.mark.parametrize("join", [" -> ", "->", " → ", "+", " + "])
def test_the_arrows_of_reports_join_a_recipe_too(join: str) -> None:
    recipe = (IterativePruning(prune=PruneChannels(0.3), rounds=2), FineTune(epochs=2), StaticQuantization("mse"))
    assert described(recipe) == " -> ".join(map(str, recipe))
    assert chosen("technique", join.join(map(str, recipe))) == [recipe]


def test_settings_may_come_without_their_names_as_in_python() -> None:
    assert chosen("technique", "PruneChannels(0.3, round_to=4)") == [PruneChannels(0.3, round_to=4)]
    found = chosen("technique", "IterativePruning(3, 0.1, prune=PruneChannels(0.3, taylor))")
    assert found == [IterativePruning(3, 0.1, prune=PruneChannels(0.3, "taylor"))]
    assert chosen("technique", "MixedPrecision(StaticQuantization, 2)") == [MixedPrecision(StaticQuantization(), 2)]


def test_words_need_no_quotes_in_a_tuple_and_brackets_count_for_nothing_in_quotes() -> None:
    assert chosen("technique", "BitAllocation(choices=(int8, int4))") == [BitAllocation(choices=("int8", "int4"))]
    one = QuantizationAwareTraining(exclude=("head",))
    assert chosen("technique", "QuantizationAwareTraining(exclude=(head,))") == [one]
    formats = (("blocks.0", "int4"), ("a(b, c", "int2"))
    found = chosen("technique", "QuantizationAwareTraining(formats=((blocks.0, int4), ('a(b, c', int2)))")
    assert found == [QuantizationAwareTraining(formats=formats)]
    assert chosen("technique", "FineTune, " + str(found[0])) == [FineTune, *found]
    quoted = QuantizationAwareTraining(formats=(('it\'s ("x", y', "int4"),))
    assert chosen("technique", f"{quoted}, FineTune") == [quoted, FineTune]
    with pytest.raises(ParingError, match=r"^'\(,\)' can't be read"):
        chosen("technique", "BitAllocation(choices=(,))")


def test_what_a_technique_asks_for_can_be_pasted() -> None:
    with pytest.raises(ParingError) as told:
        next(IterativePruning.variants(nn.Linear(2, 2), Job(Task(nn.Linear(2, 2), evaluate=[]), ())))
    pasted = re.search(r"as (\S+\))\.$", str(told.value))
    assert pasted is not None
    assert chosen("technique", pasted[1]) == [IterativePruning(prune=PruneChannels(0.3))]


OTHER: dict[str, object] = {
    "epochs": 3,
    "learning_rate": 1e-05,
    "distillation": "kl",
    "temperature": 2.5,
    "label_weight": 0.0,
    "mixing": "cutmix",
    "prune": PruneWeights(),
    "until": 0.2,
    "regrow": True,
    "rounds": 7,
    "rewind": True,
    "penalty": "norm_scale",
    "strength": 0.123456789,
    "growing": True,
    "ratio": 0.25,
    "criterion": "wanda",
    "round_to": 3,
    "ratios": (("body.0", 0.5), ("head", 0.0)),
    "sparsity": 0.1,
    "threshold": 0.01,
    "pattern": "2:4",
    "scope": "global",
    "reconstruct": True,
    "vectors": True,
    "layers": ("a.b",),
    "sparsities": (("a, b (c)", 0.5),),
    "blocks": ("layer1.0", "x"),
    "count": 2,
    "dtype": "fp16",
    "storage_only": True,
    "exclude": ("/conv 1/Conv",),
    "least_parameters": 0,
    "alpha": 0.25,
    "alphas": (0.25, 1.0),
    "format": "nf4",
    "group_size": 16,
    "scales": "hqq",
    "calibration": "percentile",
    "percentile": 99.5,
    "per_channel": False,
    "placement": "inputs-only",
    "int8": StaticQuantization("mse", exclude=("a",)),
    "precision": "float16",
    "weight_decay": 0.0,
    "float_layers": 3,
    "weights": "int3",
    "formats": (("conv1", "int4"),),
    "quantization": StaticQuantization("mse", weights="int4"),
    "choices": ("int8", "binary"),
    "mean_bits": 3.5,
    "latency_share": 0.5,
    "power_of_two": True,
    "anywhere": True,
    "uneven": "float",
    "rounding": "gptq",
    "kernel": "dequantize",
    "accuracy_level": 0,
    "embeddings": "only",
    "least_sqnr_db": 20.0,
    "sensitivity": "measured",
    "bias_correction": True,
    "activations": "uint4",
    "ends": "float",
    "progressive": True,
    "estimator": "ttq",
    "input_estimator": "xnor",
    "features": ("layer1.0", "a b"),
    "feature_weight": 0.5,
    "feature_distance": "angles",
    "optimizer": "adamw",
    "schedule": "step",
    "accumulate": 4,
    "averaged": 0.25,
    "compiled": True,
}
"""A value of every setting of every technique that is not its default."""

WITH: dict[str, dict[str, str]] = {
    "estimator": {"weights": "ternary"},
    "input_estimator": {"activations": "binary"},
}
"""What else such a value asks for."""


@pytest.mark.parametrize("name", registry.names("technique"))
def test_what_a_report_prints_is_the_same_technique_when_it_is_typed(name: str) -> None:
    kind = registry.find("technique", name)
    for setting in (field.name for field in fields(kind)):
        technique = kind(**{setting: OTHER[setting]}, **WITH.get(setting, {}))
        assert technique != kind()
        assert f"{setting}=" in str(technique)
        assert chosen("technique", str(technique)) == [technique]
        json.dumps(technique.settings())
        assert list(technique.settings()) == [field.name for field in fields(kind)]


@pytest.mark.parametrize(
    "technique",
    [
        FineTune(**{field.name: OTHER[field.name] for field in fields(FineTune) if field.name != "compiled"}),  # type: ignore[arg-type]
        PruneWeights(0.9, scope="global", criterion="wanda"),
        GradualPruning(epochs=3, prune=PruneWeights(0.5, scope="output", criterion="wanda")),
        PruneWeights(pattern="2:4", layers=("head", "a.b")),
        GradualPruning(epochs=2, learning_rate=0.5, until=0.2, prune=PruneWeights(0.9, scope="global")),
        IterativePruning(epochs=3, rounds=2, prune=PruneChannels(0.25, ratios=(("conv", 0.5),))),
        IterativePruning(prune=PruneChannels(), learning_rate=0.5, rounds=2),
        QuantizationAwareTraining(formats=BitAllocation(mean_bits=2.5, choices=("int4", "ternary")), epochs=2),
        QuantizationAwareTraining(formats=(("conv1", "int8"), ("layer1.0.conv1", "ternary"))),
    ],
    ids=str,
)
def test_several_settings_can_be_typed_again_too(technique: Technique) -> None:
    assert chosen("technique", str(technique)) == [technique]


def test_defaults_stay_unsaid_but_for_what_is_pruned_or_quantized() -> None:
    assert [str(kind()) for kind in (FineTune, PruneWeights, RegularisedTraining)] == [
        "FineTune",
        "PruneWeights",
        "RegularisedTraining",
    ]
    assert str(MixedPrecision()) == "MixedPrecision(int8=StaticQuantization)"
    assert str(GradualPruning()) == "GradualPruning(prune=PruneWeights(sparsity=0.8, scope=global))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "--techniques is empty: name at least one of StaticQuantization"),
        ("FineTune(epochs=5", "--techniques 'FineTune(epochs=5' has brackets that don't match"),
        ("FineTune)(", "has brackets that don't match"),
        ("FineTune(epochs=5)x", "'FineTune(epochs=5)x' goes on after its settings: separate techniques by commas"),
        ("FineTune(epoch=5)", "FineTune has no setting 'epoch=5': write NAME=VALUE with one of epochs, learning_rate"),
        ("FineTune(epochs=5, epochs=6)", "FineTune has epochs twice: give it once"),
        ("FineTune(epochs=5, 0.1)", "FineTune has no setting '0.1': write NAME=VALUE with one of epochs"),
        ("FineTune(5, epochs=5)", "FineTune has no setting 'epochs=5': write NAME=VALUE with one of epochs"),
        ("SmoothQuant(0.5, True, 2)", "SmoothQuant has no setting '2': write NAME=VALUE with one of alpha, anywhere"),
        ("FineTune(epoch)", "epochs='epoch' must be an int"),
        ("FineTun(epochs=5)", "no technique is called 'FineTun': did you mean FineTune?"),
        ("FineTune(epochs=many)", "epochs='many' must be an int, for example 30"),
        ("PruneWeights(sparsity=2)", "sparsity=2 must be at least 0 and below 1"),
    ],
)
def test_what_can_not_be_read_is_told(text: str, message: str) -> None:
    with pytest.raises(ParingError, match=re.escape(message)):
        chosen("technique", text)


OWN = """
def spread(evidence):
    return (evidence.weight - evidence.weight.mean(1, keepdim=True)).abs()

def sparse(evidence):
    return evidence.weight.abs()

unnamed = lambda evidence: evidence.weight.abs()
spread_most = 0.5
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_criteria", raising=False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_criteria.py"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize(
    "text",
    [
        "PruneWeights(criterion=own_criteria.py:spread)",
        "PruneWeights(criterion=paring.ops.importance:taylor)",
        "PruneChannels(ratio=0.25, criterion=own_criteria.py:spread)",
        "GradualPruning(epochs=3, prune=PruneWeights(criterion=own_criteria.py:spread))",
    ],
)
@pytest.mark.usefixtures("own_file")
def test_a_function_is_typed_as_it_is_printed(text: str) -> None:
    ((technique,), (again,)) = (chosen("technique", text) or () for _ in range(2))
    assert str(technique) == str(again) == text
    assert technique.settings() == again.settings()


def test_a_function_is_the_one_of_the_file_from_wherever_it_is_named(
    own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (technique,) = chosen("technique", f"PruneWeights(criterion={own_file}:spread)") or ()
    assert technique.criterion is vars(sys.modules["own_criteria"])["spread"]
    assert str(technique) == "PruneWeights(criterion=own_criteria.py:spread)"
    (own_file.parent / "elsewhere").mkdir()
    monkeypatch.chdir(own_file.parent / "elsewhere")
    assert str(technique) == f"PruneWeights(criterion={own_file}:spread)"


def test_a_function_may_stand_in_quotes(own_file: Path) -> None:
    (technique,) = chosen("technique", f"PruneWeights(criterion='{own_file}:spread')") or ()
    assert technique.criterion is vars(sys.modules["own_criteria"])["spread"]


def test_what_has_no_name_to_be_typed_is_told_by_what_it_does(own_file: Path) -> None:
    chosen("technique", f"PruneWeights(criterion={own_file}:spread)")
    unnamed = PruneWeights(criterion=vars(sys.modules["own_criteria"])["unnamed"])
    assert re.fullmatch(r"PruneWeights\(criterion=own_criteria\.<lambda> [0-9a-f]{16}\)", str(unnamed))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "own_criteria.py:sprad",
            "own_criteria.py has no function 'sprad': write one, or name one that it has (spread,",
        ),
        ("own_criteria.py:spread_most", "own_criteria.py has no function 'spread_most': write one, or name one"),
        ("other.py:spread", "no such file: other.py: name a Python file."),
        ("nowhere.at_all:spread", "nowhere.at_all can't be imported: ModuleNotFoundError"),
        ("broken.py:spread", "broken.py:2 raised ZeroDivisionError"),
        ("spread", "criterion='spread' is unknown: choose random, squared_gradient, wanda, or pass a function (on the"),
    ],
)
def test_a_function_that_is_not_there_is_told(own_file: Path, function: str, message: str) -> None:
    own_file.with_name("broken.py").write_text("one = 1\none / 0\n")
    with pytest.raises(ParingError, match=re.escape(message)):
        chosen("technique", f"PruneWeights(criterion={function})")
