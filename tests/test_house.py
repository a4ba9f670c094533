"""The map that ARCHITECTURE.md draws is the one that the imports follow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import paring

ROOT = Path(paring.__file__).parent
LAYERS = (
    ("errors",),
    ("ops",),
    ("types", "registry", "fingerprint", "settings"),
    ("data", "graph"),
    ("artifact",),
    ("backends",),
    ("train",),
    ("techniques",),
    ("measure", "certify"),
    ("tune",),
    ("report",),
    ("flow",),
    ("testing",),
    ("serve",),
    ("cli",),
)
RANK = {name: number for number, names in enumerate(LAYERS) for name in names}
SOURCES = sorted(ROOT.rglob("*.py"))


def imported_rooms(file: Path) -> set[str]:
    """The layers of paring that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        found |= {m.split(".")[1] for m in modules if m.startswith("paring.") and m.split(".")[1] in RANK}
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_each_layer_imports_only_from_its_left(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    wrong = {other for other in imported_rooms(file) if RANK[other] > RANK[room]}
    assert not wrong, f"{room} imports {wrong}, which stand to its right"


def test_every_room_has_its_place_on_the_map() -> None:
    rooms = {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in SOURCES}
    assert rooms - {"__init__", "__main__"} <= set(RANK)


def test_the_map_in_architecture_is_the_one_that_is_enforced() -> None:
    text = (ROOT.parent.parent / "ARCHITECTURE.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("`errors | ops"))
    drawn = [tuple(room.split()) for room in line.strip("`").split("|")]
    assert drawn == [layer for layer in LAYERS if layer != ("serve",)]
