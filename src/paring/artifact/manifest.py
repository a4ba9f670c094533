"""manifest.json: what an artifact says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from paring.errors import ArtifactError
from paring.types import Signature, TensorSpec

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """Everything needed to run, verify and serve a network, and where it came from.

    `recipe` is provenance: a list of {"technique", "settings"} that is shown and never executed. `measurements`,
    `certificate` and `hardware` are what was found on the machine that made the artifact. `files` maps each file's
    name to its sha256.
    """

    task: str
    signature: Signature
    backend: str
    options: dict[str, Any]
    recipe: list[dict[str, Any]]
    recipe_text: str
    threads: int
    batch_size: int
    measurements: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    version: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> Manifest:
        """The inverse of `to_json`. Raises ArtifactError where a field is missing, unknown or too new."""
        version = values.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ArtifactError(
                f"{where} has format version {version}, this paring reads up to {FORMAT_VERSION}: update paring."
            )
        try:
            return cls(**{**values, "signature": _signature(values["signature"])})
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{where} is not a manifest that paring wrote: {error}.") from error


def _signature(values: dict[str, Any]) -> Signature:
    return Signature(
        inputs=tuple(_spec(v) for v in values["inputs"]),
        outputs=tuple(_spec(v) for v in values["outputs"]),
        input_structure=values["input_structure"],
        output_structure=values["output_structure"],
    )


def _spec(values: dict[str, Any]) -> TensorSpec:
    return TensorSpec(values["name"], values["dtype"], tuple(values["shape"]))
