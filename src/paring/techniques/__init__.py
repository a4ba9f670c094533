"""The techniques: one transformation a file. Each class is imported when it is first used."""

from __future__ import annotations

from typing import Any

from paring import registry

__all__ = [
    "AWQ",
    "BitAllocation",
    "CrossLayerEqualization",
    "DynamicQuantization",
    "FineTune",
    "GradualPruning",
    "HalfPrecision",
    "IterativePruning",
    "MixedPrecision",
    "PruneChannels",
    "PruneWeights",
    "QuantizationAwareTraining",
    "RegularisedTraining",
    "RemoveBlocks",
    "SmoothQuant",
    "StaticQuantization",
    "WeightQuantization",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return registry.find("technique", name)
    raise AttributeError(f"module 'paring.techniques' has no attribute {name!r}")
