"""verify: does what an artifact promises hold on this machine?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paring.artifact import Artifact
from paring.backends.isolated import Deployment
from paring.backends.loading import backend_of
from paring.flow.workload import golden_outputs, golden_workload
from paring.measure.agreement import relative_error
from paring.measure.compare import compare
from paring.measure.hardware import differences, hardware
from paring.measure.latency import Workload, measure_alone
from paring.report import units

TOLERANCE = 0.02
"""Root mean square of the difference over that of the outputs: what runtimes and their kernels differ by."""

TIME_LIMIT_S = 20.0


@dataclass(frozen=True)
class Check:
    """One promise: what was found when the artifact was made, what is found here, and whether it holds."""

    what: str
    promised: str
    here: str
    verdict: str
    holds: bool


def verify(path: Path, *, threads: int | None = None) -> dict[str, Any]:
    """Check an artifact, or the best of an output folder, on this machine.

    The golden inputs must give the golden outputs within TOLERANCE; where the original stands in the same output
    folder, the speed-up over it is measured again. Raises ArtifactError for a damaged artifact, BackendError where
    its runtime is missing here.
    """
    artifact, original = located(path)
    manifest = artifact.manifest
    threads = threads or manifest.threads
    deployment = deployment_of(artifact)
    with golden_workload(artifact, threads) as workload:
        checks = [_same_machine(manifest.hardware), _outputs(artifact, deployment, threads)]
        if original is None or original.manifest.recipe_text == manifest.recipe_text:
            checks.append(_latency(manifest.measurements, deployment, workload))
        else:
            checks.append(_speedup(manifest.measurements, deployment, deployment_of(original), workload))
    return {
        "path": str(artifact.path),
        "host": hardware()["cpu"],
        "holds": all(check.holds for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def located(path: Path) -> tuple[Artifact, Artifact | None]:
    """The artifact at a path, or the best one of an output folder; and the original, where the family stands by."""
    best = path / "best" if (path / "best").is_dir() else path
    family = sorted((best.parent / "frontier").glob("[0-9][0-9]"))
    return Artifact.open(best), Artifact.open(family[-1]) if family else None


def deployment_of(artifact: Artifact) -> Deployment:
    """The artifact's network in its backend with its options."""
    return Deployment(backend_of(artifact), artifact.network)


def _same_machine(recorded: dict[str, Any]) -> Check:
    """Figures of another machine need not hold here: that is told, and no failure."""
    found = differences(recorded, hardware())
    here = "; ".join(found) or "the same"
    return Check("machine", str(recorded.get("cpu", "not recorded")), here, "differs" if found else "same", True)


def _outputs(artifact: Artifact, deployment: Deployment, threads: int) -> Check:
    inputs, expected = artifact.golden()
    found = golden_outputs(deployment, inputs, artifact.manifest.batch_size, threads)
    error = relative_error(found, expected)
    rows = len(next(iter(inputs.values())))
    holds = bool(error <= TOLERANCE)
    verdict = "accuracy evidence holds" if holds else "outputs differ: the certificate does not hold here"
    return Check("golden outputs", f"within {TOLERANCE:.0%} on {rows} rows", f"{error:.2%}", verdict, holds)


def _latency(promised: dict[str, Any], deployment: Deployment, workload: Workload) -> Check:
    here = measure_alone(deployment, workload).latency
    there = promised["latency_ms"]["p50"] if promised.get("latency_ms") else None
    return Check("latency p50", units.latency(there), units.latency(here.p50_ms), "measured", True)


def _speedup(promised: dict[str, Any], best: Deployment, original: Deployment, workload: Workload) -> Check:
    found = compare(best, original, workload, time_limit_s=TIME_LIMIT_S)
    there = promised.get("speedup") or {}
    holds = found.low > 1
    verdict = "faster here too" if holds else "not faster than the original here: serve the original"
    return Check(
        "speed-up over the original",
        units.ratio(there["ratio"]) if there else "-",
        f"{units.ratio(found.ratio)} ({units.interval(found.low, found.high)})",
        verdict,
        holds,
    )
