"""What a training for few values does with each layer: formats, and the ways that they are trained by."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from paring.errors import TechniqueError
from paring.graph.fake_quantized import unscaled_reason
from paring.ops.formats import FORMATS, Format
from paring.train.estimators import WEIGHTS, Estimator, InputEstimator

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Ways:
    """What becomes of a layer's weights and inputs, None where these stay float."""

    weights: Format
    inputs: Format | None
    estimator: Estimator = "learned"
    input_estimator: InputEstimator = "learned"

    @property
    def told(self) -> str:
        """As people read it."""
        named = self.estimator != "learned" and self.weights.name in WEIGHTS[self.estimator]
        weights = f"{self.weights.name} weights" + (f" ({self.estimator})" if named else "")
        inputs = f"{self.inputs.name if self.inputs else 'float'} inputs"
        return f"{weights}, {inputs}" + (f" ({self.input_estimator})" if self.input_estimator != "learned" else "")

    def check_layer(self, name: str, layer: nn.Module, least: float) -> None:
        """Raise TechniqueError where a layer is none for these, whose inputs are seen to be at least `least`."""
        reason = unscaled_reason(layer) if self.input_estimator == "xnor" else ""
        if self.input_estimator == "dorefa" and least < 0:
            reason = f"reads values down to {least:.3g}, of which this keeps none below 0"
        if reason:
            remedy = "exclude it, or leave input_estimator out"
            raise TechniqueError(f"input_estimator={self.input_estimator!r}: layer {name!r} {reason}: {remedy}.")


def trainable(form: Format, setting: str) -> bool:
    """Whether weights or activations can be trained for a format: all its levels are integers of at most 8 bits."""
    if setting != "activations":
        return form.is_integral and form.levels[0] < 0
    return form.is_integral and (form.step == 1 or form.name == "binary")


def check_trainable(setting: str, name: str) -> None:
    """Raise TechniqueError for a format that a setting names and that can't be trained for, or that there isn't."""
    if (setting, name) == ("activations", "float"):
        return
    if name not in FORMATS:
        floats = ["float"] * (setting == "activations")
        fitting = floats + [each for each, form in FORMATS.items() if trainable(form, setting)]
        close = ", ".join(difflib.get_close_matches(name, fitting, n=3, cutoff=0.0))
        raise TechniqueError(f"{setting}={name!r} is unknown: choose {close}.")
    if not trainable(FORMATS[name], setting):
        usual = "uint1 to uint8, or float" if setting == "activations" else "int2 to int8, ternary or binary"
        raise TechniqueError(f"{setting}={name!r} is no format to train for: choose for example {usual}.")


def check_estimator(setting: str, name: str, estimator: Name, known: Mapping[Name, tuple[str, ...]]) -> None:
    """Raise TechniqueError where the format that a setting names is none of those that an estimator is for."""
    wanted = known.get(estimator, (name,))
    if name not in wanted:
        told = f"{'input_' * (setting == 'activations')}estimator={estimator!r} does not train {setting}={name!r}"
        raise TechniqueError(f"{told}: choose {', '.join(wanted[:-1])}{' or ' * (len(wanted) > 1)}{wanted[-1]}.")
