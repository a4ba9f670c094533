"""Settings of the wrong type: one sentence, the same for every technique, and what Python calls equal is not taken."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from paring import registry
from paring.errors import TechniqueError
from paring.settings import check_types
from paring.techniques import (
    DynamicQuantization,
    FineTune,
    HalfPrecision,
    MixedPrecision,
    PruneChannels,
    RemoveBlocks,
    SmoothQuant,
    StaticQuantization,
)

SETTINGS = [
    (registry.find("technique", name), field.name)
    for name in registry.names("technique")
    for field in fields(registry.find("technique", name))
]


@pytest.mark.parametrize(("technique", "field"), SETTINGS, ids=[f"{kind.__name__}.{name}" for kind, name in SETTINGS])
def test_no_setting_of_any_technique_takes_what_it_can_not_be(technique: Any, field: str) -> None:
    with pytest.raises(TechniqueError, match=rf"^{field}=\{{'a': 1\}} .*: choose|^{field}=\{{'a': 1\}} must be "):
        technique(**{field: {"a": 1}})


@pytest.mark.parametrize(
    ("technique", "settings", "says"),
    [
        (FineTune, {"epochs": "3"}, "epochs='3' must be an int, for example 30."),
        (FineTune, {"epochs": True}, "epochs=True must be an int, for example 30."),
        (FineTune, {"learning_rate": float("inf")}, "learning_rate=inf must be a finite float, for example 0.02."),
        (FineTune, {"mixing": None}, "mixing=None is unknown: choose one of none, mixup, cutmix."),
        (PruneChannels, {"ratio": "0.5"}, "ratio='0.5' must be a finite float, for example 0.5."),
        (PruneChannels, {"ratio": np.float32(0.5)}, "must be a finite float, for example 0.5."),
        (PruneChannels, {"round_to": 8.0}, "round_to=8.0 must be an int or None."),
        (PruneChannels, {"criterion": 2}, "criterion=2 must be a str or a function."),
        (
            PruneChannels,
            {"ratios": (("conv", "0.5"),)},
            "ratios=(('conv', '0.5'),) must be a tuple, each item (a str, a finite float).",
        ),
        (RemoveBlocks, {"blocks": "layer1.0"}, "blocks='layer1.0' must be a tuple as ('a', 'b'), each item a str."),
        (RemoveBlocks, {"count": "2"}, "count='2' must be an int or None."),
        (StaticQuantization, {"per_channel": 1}, "per_channel=1 must be True or False."),
        (DynamicQuantization, {"exclude": ["fc"]}, "exclude=['fc'] must be a tuple as ('a', 'b'), each item a str."),
        (MixedPrecision, {"int8": "mse"}, "int8='mse' must be an object of StaticQuantization."),
        (SmoothQuant, {"alpha": "0.5"}, "alpha='0.5' must be a finite float, for example 0.5."),
        (HalfPrecision, {"dtype": ["bf16"]}, "dtype=['bf16'] is unknown: choose one of bf16, fp16."),
    ],
)
def test_the_sentence_names_the_value_and_the_remedy(technique: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(TechniqueError) as error:
        technique(**settings)
    assert str(error.value).endswith(says)
    assert str(error.value).startswith(next(iter(settings)))


def test_what_fits_passes() -> None:
    assert PruneChannels(ratio=0, criterion=lambda evidence: evidence.weight.sum(1), ratios=(("conv", 0),)).ratio == 0
    assert RemoveBlocks(blocks=("a", "b")).blocks == ("a", "b")
    assert StaticQuantization(percentile=100, exclude=()).percentile == 100
    assert SmoothQuant(np.float64(0.5)).alpha == 0.5


@dataclass(frozen=True)
class Others:
    """Kinds of settings that no technique of ours has."""

    anything: Any = None
    table: dict[str, int] | None = None
    pair: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        check_types(self)


def test_kinds_of_settings_that_only_others_have() -> None:
    Others(anything={"a"}, table={"a": 1})
    with pytest.raises(TechniqueError, match=r"^table=\['a'\] must be an object of dict or None\.$"):
        Others(table=["a"])  # type: ignore[arg-type]
    with pytest.raises(TechniqueError, match=r"^pair=\(1, 2, 3\) must be \(an int, an int\)\.$"):
        Others(pair=(1, 2, 3))  # type: ignore[arg-type]
