"""Every error that paring raises on purpose.

ParingError
  InputError           what the user gave can't be used: exit code 2
    TaskError          the task file, model, data or metric
    BudgetError        a budget that contradicts itself or that the data can't certify
    ArtifactError      a folder that is no artifact, is damaged, or was made by a newer version
    TechniqueError     a technique's settings, or a network that it can't be applied to
    OutputError        the output folder: in use, read-only, full
  BackendError         a runtime is missing, refused the network, or crashed
  ExportError          the network can't be turned into a graph; names the module and the line
  InfeasibleError      no candidate meets the budget: exit code 3
  TimeUpError          the time limit ended in the midst of something: no verdict on it
"""

from __future__ import annotations


class ParingError(Exception):
    """The root: one sentence that says what, which value, and what to do next."""

    exit_code = 1


class InputError(ParingError):
    """What the user gave can't be used."""

    exit_code = 2


class TaskError(InputError):
    """The task file, its model, data, metric or loss."""


class BudgetError(InputError):
    """A budget that contradicts itself, or that the data can't certify."""


class ArtifactError(InputError):
    """A folder that is no artifact, is damaged, or was made by a newer version."""


class TechniqueError(InputError):
    """Settings out of range, or a network that the technique can't be applied to."""


class OutputError(InputError):
    """The output folder is in use, read-only or full."""


class BackendError(ParingError):
    """A runtime is missing, refused the network, or crashed."""


class ExportError(InputError):
    """The network can't be turned into a graph."""


class InfeasibleError(ParingError):
    """No candidate meets the budget."""

    exit_code = 3


class TimeUpError(ParingError):
    """The time limit ended in the midst of something. No verdict on it: `optimize` ends its search there."""
