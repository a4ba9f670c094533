"""bench: artifacts in turn, each in a process of its own, against the first one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paring.artifact import Artifact
from paring.backends.base import Backend
from paring.errors import InputError
from paring.flow.verify import deployment_of
from paring.flow.workload import golden_workload
from paring.measure.compare import compare
from paring.measure.latency import Latency, measure_alone
from paring.types import TensorSpec


def bench(
    paths: Sequence[Path],
    *,
    threads: int | None = None,
    time_limit_s: float = 20.0,
    backends: Sequence[type[Backend]] = (),
) -> dict[str, Any]:
    """Latency of each artifact (or of an output folder's best) and its speed-up over the first one.

    `backends` are classes that have no name of their own here. Raises InputError where there is none, or where they
    take different inputs, ArtifactError where one is damaged, BackendError where one can't be run.
    """
    if not paths:
        raise InputError("nothing to bench: name at least one artifact or output folder.")
    artifacts = [Artifact.chosen(path) for path in paths]
    for artifact in artifacts[1:]:
        _check_comparable(artifacts[0], artifact)
    first = deployment_of(artifacts[0], backends)
    rows = []
    with golden_workload(artifacts[0], threads) as workload:
        for number, artifact in enumerate(artifacts):
            speedup = None
            if number == 0:
                latency = measure_alone(first, workload).latency
            else:
                found = compare(deployment_of(artifact, backends), first, workload, time_limit_s=time_limit_s)
                latency = found.candidate
                speedup = {"ratio": found.ratio, "low": found.low, "high": found.high}
            rows.append(_row(artifact.path, artifact.manifest.backend, artifact.size_bytes, latency, speedup))
    return {"batch_size": workload.batch_size, "threads": workload.threads, "artifacts": rows}


def _check_comparable(first: Artifact, other: Artifact) -> None:
    """Raise InputError where the rows that time the first one are none for the other."""
    one, two = ({spec.name: spec for spec in each.manifest.signature.inputs} for each in (first, other))
    if one.keys() != two.keys() or not all(_alike(one[name], two[name]) for name in one):
        told = [", ".join(map(_told, specs.values())) for specs in (one, two)]
        raise InputError(
            f"{first.path} takes {told[0]}, and {other.path} takes {told[1]}: they are timed on the same rows, so "
            "name artifacts of one task."
        )


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    sizes = zip(one.shape, other.shape, strict=False)
    fits = len(one.shape) == len(other.shape) and all(None in pair or pair[0] == pair[1] for pair in sizes)
    return fits and one.dtype == other.dtype


def _told(spec: TensorSpec) -> str:
    """An input as a person reads it: its name, type and shape."""
    return f"{spec.name} ({spec.dtype}, {' x '.join(str(size or 'any') for size in spec.shape)})"


def _row(
    path: Path, backend: str, size_bytes: int, latency: Latency, speedup: dict[str, float] | None
) -> dict[str, Any]:
    return {
        "path": str(path),
        "backend": backend,
        "latency_ms": {"p50": latency.p50_ms, "p90": latency.p90_ms, "p99": latency.p99_ms},
        "throughput_per_s": latency.throughput_per_s,
        "size_bytes": size_bytes,
        "speedup": speedup,
    }
