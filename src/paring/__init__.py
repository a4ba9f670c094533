"""paring: give it a trained network, data and a budget; it returns the fastest network that this machine can run.

Names are imported when they are first used, so that loading an artifact does not load a training library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Artifact": "paring.artifact",
    "Backend": "paring.backends.base",
    "Budget": "paring.types",
    "CorpusMetric": "paring.types",
    "GraphTechnique": "paring.techniques.base",
    "Job": "paring.data.job",
    "ModuleTechnique": "paring.techniques.base",
    "ParingError": "paring.errors",
    "Result": "paring.flow.result",
    "Session": "paring.types",
    "Task": "paring.types",
    "accuracy": "paring.ops.scores",
    "bench": "paring.flow.bench",
    "load": "paring.backends.loading",
    "optimize": "paring.flow.optimize",
    "sensitivity": "paring.flow.sensitivity",
    "verify": "paring.flow.verify",
}

__all__ = [
    "Artifact",
    "Backend",
    "Budget",
    "CorpusMetric",
    "GraphTechnique",
    "Job",
    "ModuleTechnique",
    "ParingError",
    "Result",
    "Session",
    "Task",
    "accuracy",
    "bench",
    "load",
    "optimize",
    "sensitivity",
    "verify",
]

if TYPE_CHECKING:
    from paring.artifact import Artifact as Artifact
    from paring.backends.base import Backend as Backend
    from paring.backends.loading import load as load
    from paring.data.job import Job as Job
    from paring.errors import ParingError as ParingError
    from paring.flow.bench import bench as bench
    from paring.flow.optimize import optimize as optimize
    from paring.flow.result import Result as Result
    from paring.flow.sensitivity import sensitivity as sensitivity
    from paring.flow.verify import verify as verify
    from paring.ops.scores import accuracy as accuracy
    from paring.techniques.base import GraphTechnique as GraphTechnique
    from paring.techniques.base import ModuleTechnique as ModuleTechnique
    from paring.types import Budget as Budget
    from paring.types import CorpusMetric as CorpusMetric
    from paring.types import Session as Session
    from paring.types import Task as Task


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'paring' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
