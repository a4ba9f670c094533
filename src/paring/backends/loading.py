"""paring.load: an artifact as a session in this process."""

from __future__ import annotations

from pathlib import Path

from paring import registry
from paring.artifact import Artifact
from paring.backends.base import Backend
from paring.types import Session


def load(path: Path | str, *, threads: int | None = None, device: str = "cpu") -> Session:
    """The network of an artifact, or of an output folder's best, ready to run.

    Raises ArtifactError where a file is missing or damaged, BackendError where its runtime does not work here.
    """
    path = Path(path)
    artifact = Artifact.open(path / "best" if (path / "best").is_dir() else path)
    kind: type[Backend] = registry.find("backend", artifact.manifest.backend)
    backend = kind(**artifact.manifest.options)
    return backend.load(artifact.network, threads=threads or artifact.manifest.threads, device=device)
