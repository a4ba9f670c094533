"""paring.load: an artifact as a session in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paring import registry
from paring.artifact import Artifact
from paring.artifact.packed import readable
from paring.backends.base import Backend
from paring.backends.cores import check_threads, usable_cores
from paring.errors import ArtifactError, BackendError
from paring.types import Arrays, Session, Signature


def load(
    path: Path | str, *, threads: int | None = None, device: str = "cpu", backends: Sequence[type[Backend]] = ()
) -> Session:
    """The network of an artifact, or of an output folder's best, ready to run.

    `backends` are classes that have no name of their own here (see `paring.registry`), where the artifact needs one.
    Raises ArtifactError where a file is missing or damaged, BackendError where its runtime does not work here.
    """
    artifact = Artifact.chosen(path)
    backend, signature = backend_of(artifact, backends), artifact.manifest.signature
    with readable(artifact.network) as network:
        session = backend.load(network, threads=thread_count(artifact, threads), device=device)
    return session if signature.graph_output_names == signature.output_names else _Named(session, signature)


@dataclass(frozen=True)
class _Named:
    """A session under the signature's names, where a graph had to call some outputs otherwise."""

    session: Session
    signature: Signature

    def run(self, inputs: Arrays) -> Arrays:
        return self.signature.as_named(self.session.run(inputs))

    def close(self) -> None:
        self.session.close()


def thread_count(artifact: Artifact, threads: int | None) -> int:
    """What was asked for, else what the artifact was measured with, as far as there are cores for it here.

    Raises BudgetError below 1 and where more are asked for than there are cores.
    """
    check_threads(threads, "what the manifest says")
    return threads or min(artifact.manifest.threads, usable_cores())


def backend_of(artifact: Artifact, backends: Sequence[type[Backend]] = ()) -> Backend:
    """The backend with the options that the manifest names; those given go before those that are installed.

    Raises BackendError where there is no such backend here, ArtifactError where it has no such options.
    """
    name = artifact.manifest.backend
    kind: type[Backend] | None = next((given for given in backends if given.name == name), None)
    if kind is None:
        if name not in registry.names("backend"):
            raise BackendError(
                f"{artifact.path} needs the backend {name!r}, which is not installed here: install the package that "
                "names it, or pass its class, as in paring.load(path, backends=[Mine])."
            )
        kind = registry.find("backend", name)
    try:
        return kind.with_options(artifact.manifest.options)
    except (BackendError, TypeError) as error:
        told = str(error).rstrip(".")
        raise ArtifactError(f"{artifact.path} asks {name} for options that it does not have: {told}.") from error
