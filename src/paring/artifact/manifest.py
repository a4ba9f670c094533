"""manifest.json: what an artifact says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any

from paring.errors import ArtifactError, BudgetError
from paring.types import Budget, Signature, TensorSpec

FORMAT_VERSION = 1
DIGEST = "sha256"
"""The field with the digest of all others."""

_KINDS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("task", "backend", "recipe_text", "version"), (str,)),
        **dict.fromkeys(("options", "measurements", "hardware", "files"), (dict,)),
        **dict.fromkeys(("threads", "batch_size"), (int,)),
        "recipe": (list,),
        "certificate": (dict, NoneType),
    }
)
_STRUCTURES = ("tensor", "tuple", "dict")


@dataclass(frozen=True)
class Manifest:
    """Everything needed to run, verify and serve a network, and where it came from.

    `recipe` is provenance: a list of {"technique", "settings"} that is shown and never executed. `measurements`,
    `certificate` and `hardware` are what was found on the machine that made the artifact, and `budget` what was asked
    of it there. `files` maps each file's name to its sha256.
    """

    task: str
    signature: Signature
    backend: str
    options: dict[str, Any]
    recipe: list[dict[str, Any]]
    recipe_text: str
    threads: int
    batch_size: int
    budget: Budget = field(default_factory=Budget)
    measurements: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    version: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = vars(self)[name]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ArtifactError(f"{name}={value!r} must be of type {kinds[0].__name__}")
        for name in ("threads", "batch_size"):
            if vars(self)[name] < 1:
                raise ArtifactError(f"{name}={vars(self)[name]} must be 1 or more")
        for name, digest in self.files.items():
            if not isinstance(digest, str):
                raise ArtifactError(f"the sha256 of {name!r} is {digest!r}")
            if Path(name).name != name:
                raise ArtifactError(f"it lists {name!r}, and files lie in the artifact's own folder")

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the sha256 of all of them."""
        values = asdict(self)
        return {**values, DIGEST: _digest(values)}

    @classmethod
    def from_json(cls, values: Any, where: str) -> Manifest:
        """The inverse of `to_json`.

        Raises ArtifactError where a field is missing, malformed, unknown or too new, or where one was changed since.
        """
        if not isinstance(values, dict):
            raise ArtifactError(f"{where} is not a manifest that paring wrote: it holds a {type(values).__name__}.")
        version = values.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise ArtifactError(
                f"{where} has format version {version!r}, this paring reads 1 to {FORMAT_VERSION}: update paring."
            )
        for name in ("signature", "budget"):
            if not isinstance(values.get(name), dict):
                told = f"its {name} is {values.get(name)!r}"
                raise ArtifactError(f"{where} is not a manifest that paring wrote: {told}.")
        try:
            parts = {"signature": _signature(values["signature"]), "budget": Budget(**values["budget"])}
            plain = {name: value for name, value in values.items() if name != DIGEST}
            manifest = cls(**{**plain, **parts})
        except KeyError as error:
            raise ArtifactError(f"{where} is not a manifest that paring wrote: {error} is missing.") from error
        except (AttributeError, TypeError, ArtifactError, BudgetError) as error:
            told = str(error).rstrip(".")
            raise ArtifactError(f"{where} is not a manifest that paring wrote: {told}.") from error
        if values.get(DIGEST) != _digest(plain):
            raise ArtifactError(f"{where} was changed: its sha256 differs. Copy the artifact again.")
        return manifest


def _digest(values: Mapping[str, Any]) -> str:
    """Of the values as JSON holds them: what is promised of a network must not be edited unseen."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _signature(values: dict[str, Any]) -> Signature:
    inputs, outputs = (tuple(_spec(v) for v in values[name]) for name in ("inputs", "outputs"))
    structures = values["input_structure"], values["output_structure"]
    if not (inputs and outputs and all(structure in _STRUCTURES for structure in structures)):
        raise ArtifactError(f"signature={values!r} must have inputs and outputs, each a tensor, a tuple or a dict")
    return Signature(inputs, outputs, *structures)


def _spec(values: dict[str, Any]) -> TensorSpec:
    spec = TensorSpec(values["name"], values["dtype"], tuple(values["shape"]))
    if not all(isinstance(text, str) for text in (spec.name, spec.dtype)):
        raise ArtifactError(f"the tensor {values!r} must have a name and a dtype")
    if not spec.shape or not all(size is None or type(size) is int for size in spec.shape):
        raise ArtifactError(f"the shape {values['shape']!r} of {spec.name!r} must be sizes, null where they vary")
    return spec
