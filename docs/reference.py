"""Write docs/reference.md from the docstrings and the command line: `make docs`. A test holds the file against them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import paring
from paring import registry
from paring.certify import Certificate, certify
from paring.cli.app import app
from paring.flow.sensitivity import Sensitivity
from paring.techniques.base import Part, TrainingTechnique
from paring.tune import Trial
from paring.types import Coverage, LayerChange

TARGET = Path(__file__).parent / "reference.md"
SKIPPED_OPTIONS = ("--install-completion", "--show-completion", "--help")

MORE = (TrainingTechnique, Part, Sensitivity, Coverage, LayerChange, Trial, Certificate, certify)
"""What people meet in results and write in extensions, beside the names of `paring` itself."""

RECIPE = (
    "`Recipe = tuple[Technique, ...]`: techniques, applied left to right, those of modules first, then those of graphs."
)

FILES = """\
### Exit codes

| code | |
|---|---|
| 0 | done: improved, or the original kept, with the reason |
| 1 | `verify` found a promise that does not hold here, or no runtime works |
| 2 | bad input or a mistake of usage: one sentence names the value and the remedy |
| 3 | nothing that was tried meets the budget: the nearest points are printed |
| 130 | interrupted: what a search had finished is saved, and the same command goes on from there |

### What an output folder holds

| path | |
|---|---|
| `result.json` | the answer: `status`, `reason`, `best`, `baseline`, `baselines`, `speedup`, `certificate` |
| | `zeros`: a sentence where weights that are zero saved bytes and no time, else empty |
| | `baselines` have the times that they take beside `baseline`, by speed-ups that were measured in turn |
| | `coverage`, `nearest` (infeasible), `unavailable` and `not_tried` with their reasons, `trials` (by outcome) |
| `report.html` | the story, with plots: one file that needs no network |
| `best/` | the chosen artifact; none where the budget is infeasible |
| `frontier/NN/` | the other artifacts of the family, the fastest first |
| `trials/trials.jsonl` | every trial as one line of JSON, appended as it ends (`Trial` below) |
| `sensitivity.json`, `.html` | of `paring sensitivity`: parts, joins, and the recipe for the speed-up that was wanted |

An artifact is a folder with `manifest.json` (signature, backend and options, recipe, measurements, certificate,
hardware, sha256 of every file), the network (`network.onnx`, in which an output that is called like an
input is `NAME_output`, or `network.pt2`; with `.packed` behind it where it is smaller so, and then the same file again
while it is loaded, see below) and `golden.npz`: inputs and the outputs they gave.

Packed, constants of few values take their true width: 2^n values n bits for each item, three of them 1.6 bits, and the
table of the values; zeros, or one value that is as common, take a bit. It is lossless, and what a runtime loads is the
same: `with readable(artifact.network) as file:`, from `paring.artifact.packed`, gives the ONNX file or archive itself.
"""


def public_room(value: Any) -> str:
    """The module to import it from: of `paring.certify.rows`, the room `paring.certify`."""
    room = ".".join(value.__module__.split(".")[:2])
    return room if hasattr(importlib.import_module(room), value.__name__) else str(value.__module__)


def reference() -> str:
    """The whole page."""
    lines = ["# Reference", "", "Written by `make docs` from the code.", "", "## Command line", ""]
    command = typer.main.get_command(app)
    for name, sub in sorted(command.commands.items()):  # type: ignore[attr-defined]
        lines += command_lines(name, sub)
    lines += [FILES, "## Python", ""]
    for name in paring.__all__:
        lines += object_lines(f"paring.{name}", getattr(paring, name))
    for value in MORE:
        lines += object_lines(f"{public_room(value)}.{value.__name__}", value)
    lines += ["### `paring.techniques.base.Recipe`", "", RECIPE, ""]
    for kind, title in (("technique", "Techniques"), ("backend", "Backends")):
        lines += [f"## {title}", ""]
        for name in registry.names(kind):  # type: ignore[arg-type]
            lines += object_lines(name, registry.find(kind, name))  # type: ignore[arg-type]
    return "\n".join(lines).rstrip() + "\n"


def command_lines(name: str, command: Any) -> Iterator[str]:
    """One command: what it does, then its arguments and options."""
    yield from (
        f"### `paring {name}`",
        "",
        inspect.cleandoc(command.help or ""),
        "",
        "| | default | |",
        "|---|---|---|",
    )
    for parameter in command.params:
        shown = ", ".join(parameter.opts) if parameter.param_type_name == "option" else (parameter.name or "").upper()
        if shown in SKIPPED_OPTIONS:
            continue
        default = "" if parameter.required or parameter.default is None else str(parameter.default)
        yield f"| `{shown}` | {default} | {getattr(parameter, 'help', '') or ''} |"
    yield ""


def object_lines(name: str, value: Any) -> Iterator[str]:
    """One class or function: its signature and docstring, and what a class adds to it."""
    yield from (f"### `{name}`", "")
    if dataclasses.is_dataclass(value) or inspect.isfunction(value):
        signature = str(inspect.signature(value)).replace("'", "")
        signature = re.sub(r"<(?:built-in )?function (\w+)(?: at 0x\w+)?>", r"\1", signature)
        yield from ("```python", f"{value.__name__}{signature}", "```", "")
    yield from (inspect.getdoc(value) or "", "")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(TARGET)
