"""verify: does what an artifact promises hold on this machine?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paring.artifact import Artifact
from paring.backends.base import Backend
from paring.backends.isolated import Deployment
from paring.backends.loading import backend_of
from paring.errors import BackendError
from paring.flow.promises import NO_ORIGINAL, SPEEDUP, Check, Figures, gains, limits, not_compared
from paring.flow.workload import golden_outputs, golden_workload
from paring.measure.agreement import relative_error
from paring.measure.compare import compare
from paring.measure.hardware import differences, hardware
from paring.measure.latency import Workload, measure_alone

TOLERANCE = 0.02
"""Root mean square of the difference over that of the outputs: what runtimes and their kernels differ by."""

ALONE_S = 3.0
"""Time for the latency where there is no original to compare with."""

FRONTIER = "frontier"


def verify(
    path: Path,
    *,
    threads: int | None = None,
    time_limit_s: float = 20.0,
    backends: Sequence[type[Backend]] = (),
) -> dict[str, Any]:
    """Check an artifact, or the best of an output folder, on this machine; each promise is a row that holds or not.

    The golden inputs must give the golden outputs within TOLERANCE, and the limits of the budget must hold; where the
    original stands in the same output folder and runs here, what the objective gained over it is measured again, for
    `time_limit_s`. Elsewhere the speed is not checked: `speed_checked` is False, whatever `holds` says of the rest.
    `backends` are classes that have no name of their own here. Raises ArtifactError for a damaged artifact.
    """
    artifact, original = located(path)
    with golden_workload(artifact, threads) as workload:
        checks = [_same_machine(artifact.manifest.hardware)]
        try:
            checks.append(_outputs(artifact, deployment_of(artifact, backends), workload.threads))
            checks += _promises(artifact, original, workload, time_limit_s, backends)
        except BackendError as error:
            checks.append(Check("runtime", artifact.manifest.backend, str(error), "does not run here", False))
    return {
        "path": str(artifact.path),
        "host": hardware()["cpu"],
        "holds": all(check.holds for check in checks),
        "speed_checked": any(check.what == SPEEDUP for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def located(path: Path) -> tuple[Artifact, Artifact | None]:
    """The artifact at a path, or the best one of an output folder; and the original of its family, where it has one.

    The family stands in `frontier`, in it or beside it. The original itself has no other.
    """
    artifact = Artifact.chosen(path)
    if not artifact.manifest.recipe:
        return artifact, None
    home = _home(artifact)
    folders = [home / FRONTIER, *([home] if home.name == FRONTIER else [])]
    members = [member for folder in folders for member in sorted(folder.glob("[0-9][0-9]"), reverse=True)]
    opened = (Artifact.open(member, verify=False) for member in members)
    original = next((member for member in opened if not member.manifest.recipe), None)
    if original is not None:
        original.check_files()
    return artifact, original


def _home(artifact: Artifact) -> Path:
    """The folder that an artifact lies in, also where its path is `.` or a link."""
    return artifact.path.resolve().parent


def deployment_of(artifact: Artifact, backends: Sequence[type[Backend]] = ()) -> Deployment:
    """The artifact's network in its backend with its options."""
    return Deployment(backend_of(artifact, backends), artifact.network, artifact.manifest.signature)


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


def _promises(
    artifact: Artifact,
    original: Artifact | None,
    workload: Workload,
    time_limit_s: float,
    backends: Sequence[type[Backend]],
) -> list[Check]:
    """The limits of the budget; and beside the original what was gained, else the latency as it is."""
    reason = NO_ORIGINAL
    if original is not None:
        try:
            return _compared(artifact, original, workload, time_limit_s, backends)
        except BackendError as error:
            # Where it was the artifact that failed, it fails alone as well.
            reason = f"the original does not run beside it here: {error}"
    best = deployment_of(artifact, backends)
    alone = measure_alone(best, workload, time_limit_s=min(ALONE_S, time_limit_s))
    here = Figures(alone.latency.p50_ms, artifact.size_bytes, alone.peak_memory_bytes)
    return [not_compared(artifact.manifest, here, reason), *limits(artifact.manifest.budget, here)]


def _compared(
    artifact: Artifact,
    original: Artifact,
    workload: Workload,
    time_limit_s: float,
    backends: Sequence[type[Backend]],
) -> list[Check]:
    """The same beside the original. Raises BackendError where one of the two does not run here."""
    manifest, best = artifact.manifest, deployment_of(artifact, backends)
    found = compare(best, deployment_of(original, backends), workload, time_limit_s=time_limit_s)
    here = Figures(found.candidate.p50_ms, artifact.size_bytes, found.candidate_peak_memory_bytes)
    before = Figures(found.original.p50_ms, original.size_bytes, found.original_peak_memory_bytes)
    family = original.manifest if original.path.parent == _home(artifact) else None
    return [*gains(manifest, found, here, before, family), *limits(manifest.budget, here)]
