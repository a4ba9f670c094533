"""Every error that paring raises on purpose.

ParingError
  InputError           what the user gave can't be used: exit code 2
    TaskError          the task file, model, data or metric
      DataError        rows that can't be used, whatever the candidate: they end a run
      TrainDataError   rows of `train` that no training can use: they end all trainings, and no run
    BudgetError        a budget that contradicts itself or that the data can't certify
    ArtifactError      a folder that is no artifact, is damaged, or was made by a newer version
    TechniqueError     a technique's settings, or a network that it can't be applied to
    OutputError        the output folder: in use, read-only, full, or another's
  BackendError         a runtime is missing, refused the network, or crashed
  ExportError          the network can't be turned into a graph; names the module and the line
  InfeasibleError      no candidate meets the budget: exit code 3
  TimeUpError          the time limit ended in the midst of something: no verdict on it
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_QUOTED = 100
"""Letters of a value that a sentence can bear."""

DISK_REFUSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What a write says where the disk is full, a quota or the largest file size is reached, or the disk is read-only.

Not EACCES: a file that may not be read says it too, and that is a fault of whoever reads it."""


def in_words(error: BaseException) -> str:
    """Somebody else's error as part of one sentence: its type and its message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". :")


def quoted(value: object) -> str:
    """Somebody else's value as part of one sentence: its repr, on one line and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}..."


class ParingError(Exception):
    """The root: one sentence that says what, which value, and what to do next."""

    exit_code = 1


class InputError(ParingError):
    """What the user gave can't be used."""

    exit_code = 2


class TaskError(InputError):
    """The task file, its model, data, metric or loss."""


class DataError(TaskError):
    """The user's rows can't be used. No verdict on a candidate: it ends the run, where other errors end one trial."""


class TrainDataError(TaskError):
    """A training could not use the rows of `train`: its trial failed, and so would every other training."""


class BudgetError(InputError):
    """A budget that contradicts itself, or that the data can't certify."""


class ArtifactError(InputError):
    """A folder that is no artifact, is damaged, or was made by a newer version."""


class TechniqueError(InputError):
    """Settings out of range, or a network that the technique can't be applied to."""


class OutputError(InputError):
    """The output folder is in use, read-only, full, or holds what paring did not make."""


class BackendError(ParingError):
    """A runtime is missing, refused the network, or crashed."""


class StalledError(BackendError):
    """A runtime gave no sign of life for so long that it was stopped."""


class ExportError(InputError):
    """The network can't be turned into a graph."""


class InfeasibleError(ParingError):
    """No candidate meets the budget."""

    exit_code = 3


class TimeUpError(ParingError):
    """The time limit ended in the midst of something. No verdict on it: `optimize` ends its search there."""


def unwritable(path: Path, error: OSError) -> OutputError:
    """The sentence for a disk that refuses."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(f"{path} can't be written ({cause}): choose another --out, or free space and permissions there.")


def disk_refused(error: OSError) -> OutputError | None:
    """The sentence where that is what an error of anybody's code says, None where it says something else."""
    if error.errno not in DISK_REFUSES:
        return None
    return unwritable(Path(error.filename or tempfile.gettempdir()), error)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around whatever writes `path`: a disk that refuses is an OutputError."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
