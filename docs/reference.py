"""Write docs/reference.md from the docstrings and the command line: `make docs`. A test holds the file against them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import paring
from paring import registry
from paring.cli.app import app

TARGET = Path(__file__).parent / "reference.md"
SKIPPED_OPTIONS = ("--install-completion", "--show-completion", "--help")


def reference() -> str:
    """The whole page."""
    lines = ["# Reference", "", "Written by `make docs` from the code.", "", "## Command line", ""]
    command = typer.main.get_command(app)
    for name, sub in sorted(command.commands.items()):  # type: ignore[attr-defined]
        lines += command_lines(name, sub)
    lines += ["## Python", ""]
    for name in paring.__all__:
        lines += object_lines(f"paring.{name}", getattr(paring, name))
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
