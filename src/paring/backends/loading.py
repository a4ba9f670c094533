"""paring.load: an artifact as a session in this process."""

from __future__ import annotations

from pathlib import Path

from paring import registry
from paring.artifact import Artifact
from paring.backends.base import Backend
from paring.errors import ArtifactError
from paring.types import Session


def load(path: Path | str, *, threads: int | None = None, device: str = "cpu") -> Session:
    """The network of an artifact, or of an output folder's best, ready to run.

    Raises ArtifactError where a file is missing or damaged, BackendError where its runtime does not work here.
    """
    path = Path(path)
    artifact = Artifact.open(path / "best" if (path / "best").is_dir() else path)
    return backend_of(artifact).load(artifact.network, threads=threads or artifact.manifest.threads, device=device)


def backend_of(artifact: Artifact) -> Backend:
    """The backend with the options that the manifest names. Raises ArtifactError where it has no such options."""
    kind: type[Backend] = registry.find("backend", artifact.manifest.backend)
    try:
        return kind(**artifact.manifest.options)
    except TypeError as error:
        raise ArtifactError(f"{artifact.path} asks {kind.name} for options that it does not have: {error}.") from error
