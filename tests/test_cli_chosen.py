"""Techniques and backends as people type them: names, and names with settings as reports print them."""

from __future__ import annotations

import re

import pytest

from paring.backends.onnxruntime import OnnxRuntime
from paring.cli.chosen import chosen
from paring.errors import ParingError
from paring.techniques import FineTune, GradualPruning, Int8Static, IterativePruning, PruneChannels, PruneWeights
from paring.techniques.base import Technique


def test_names_are_classes_and_names_with_settings_are_objects() -> None:
    found = chosen("technique", "prune-channels, FineTune(epochs=5, learning_rate=0.1),int8static")
    assert found == [PruneChannels, FineTune(epochs=5, learning_rate=0.1), Int8Static]
    assert chosen("technique", None) is None
    assert chosen("backend", "onnxruntime(threads=1)") == [OnnxRuntime(threads=1)]


def test_a_recipe_is_one_after_the_other() -> None:
    found = chosen("technique", "PruneChannels(ratio=0.25)+FineTune(epochs=2) + Int8Static, Int8Static")
    assert found == [(PruneChannels(0.25), FineTune(epochs=2), Int8Static()), Int8Static]


@pytest.mark.parametrize(
    "technique",
    [
        PruneWeights(0.9, scope="global", criterion="wanda"),
        PruneWeights(pattern="2:4", layers=("head", "a.b")),
        PruneChannels(0.25, ratios=(("conv", 0.5),)),
        GradualPruning(epochs=3, prune=PruneWeights(0.9, scope="global")),
        IterativePruning(epochs=3, rounds=2, prune=PruneChannels(0.25)),
    ],
    ids=str,
)
def test_what_a_report_prints_can_be_typed(technique: Technique) -> None:
    assert chosen("technique", str(technique)) == [technique]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "--techniques is empty: name at least one of Int8Static"),
        ("FineTune(epochs=5", "--techniques 'FineTune(epochs=5' has brackets that don't match"),
        ("FineTune)(", "has brackets that don't match"),
        ("FineTune(epochs=5)x", "'FineTune(epochs=5)x' goes on after its settings: separate techniques by commas"),
        ("FineTune(epoch=5)", "FineTune has no setting 'epoch=5': write NAME=VALUE with one of epochs, learning_rate"),
        ("FineTune(5)", "FineTune has no setting '5': write NAME=VALUE with one of epochs"),
        ("FineTun(epochs=5)", "no technique is called 'FineTun': did you mean FineTune?"),
        ("FineTune(epochs=many)", "epochs='many' must be an int, for example 30"),
        ("PruneWeights(sparsity=2)", "sparsity=2 must be at least 0 and below 1"),
    ],
)
def test_what_can_not_be_read_is_told(text: str, message: str) -> None:
    with pytest.raises(ParingError, match=re.escape(message)):
        chosen("technique", text)
