"""torch.export archives that hold data and nothing else.

Loading one evaluates the symbolic expressions written in it, looks functions up by name, turns names into Python code,
imports what its trees of inputs and outputs name, unpickles sample inputs and marked weights, and maps compiled
libraries into the process (torch 2.13: torch/_export/serde/serialize.py, torch/export/pt2_archive/_package.py). A
sha256 does not help against who wrote the manifest too. So an archive is written without all that a network does not
need, and read only where every entry is one that a network needs. torch's own reader lists the entries, so that what
is checked is what is loaded.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paring.backends.checks import in_one_sentence
from paring.errors import ArtifactError, BackendError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MODEL = "models/model.json"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_BYTES = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_NAME = re.compile(r"[\w.+-]*")
_SYMBOL = re.compile(r"[A-Za-z_]\w*|-?\d+(\.\d+)?(e[+-]?\d+)?")
_FUNCTION = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv"
    r"|ModularIndexing|Where|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|RoundDecimal|ToFloat|LShift|RShift"
    r"|PowByNatural|FloatPow|Identity|IsNonOverlappingAndDenseIndicator|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan|And|Or|Not"
)
"""What sympy's `srepr`, which the exporter writes, calls the expressions that sizes are made of."""

_OPERATOR = re.compile(r"torch\.ops\.(?:aten|prims)\.(\w+)\.(\w+)")
_SCALAR_OPERATORS = re.compile(
    r"_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)"
    r"|math\.trunc|torch\.sym_(not|int|float|ite|max|min|sqrt)"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_TOUCH_FILES = ("from_file", "save")
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_EMPTY = ("metadata", "custom_obj_values", "treespec_namedtuple_fields", "as_custom_obj")
_FREE_TEXT = ("as_string", "as_strings", "guards_code")
"""Values that are handed to operators as they are; and guards, which are only run beside sample inputs."""


def write_archive(program: ExportedProgram, network: Path) -> None:
    """Write a program without sample inputs and without notes on its origin, which it loses here too."""
    import torch

    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            module.meta.clear()
            for node in module.graph.nodes:
                node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    archive = io.BytesIO()
    torch.export.save(program, archive)
    # By way of memory: torch ends the whole process where the disk refuses its own writing.
    network.write_bytes(archive.getbuffer())


def read_archive(network: Path) -> ExportedProgram:
    """Load a program. Raises BackendError where the file is no archive, ArtifactError where it is more than data."""
    from torch.export.pt2_archive._package import load_pt2

    try:
        check_archive(network)
        # Not torch.export.load: where this fails, that goes on with an older format, which unpickles.
        return load_pt2(str(network)).exported_programs["model"]
    except ArtifactError:
        raise
    except Exception as error:
        raise BackendError(f"{network.name} is no torch.export archive: {in_one_sentence(error)}.") from error


def check_archive(network: Path) -> None:
    """Raise ArtifactError, with the entry, where loading the archive could do more than make a network."""
    from torch.export.pt2_archive import PT2ArchiveReader

    reader = PT2ArchiveReader(str(network))
    for entry in reader.get_file_names():
        if entry in (_MODEL, *_TABLES):
            faults = _faults(json.loads(reader.read_bytes(entry)), "")
        elif entry == _SAMPLE_INPUTS:
            faults = iter(["pickled objects"] if reader.read_bytes(entry) else [])
        else:
            faults = iter([] if _BYTES.fullmatch(entry) else ["what no network needs"])
        for fault in faults:
            raise ArtifactError(
                f"{network.name} is refused: {entry} holds {fault}, and loading it could run code. "
                "Use artifacts that paring wrote, from people whom you trust."
            )


def _faults(value: Any, key: str) -> Iterator[str]:
    """What a JSON value that stands under `key` holds beside plain data, in words."""
    if key in _EMPTY:
        if value:
            yield f"{key} {_told(value)}"
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                yield f"the name {_told(name)}"
            yield from _faults(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _faults(inner, key)
    elif isinstance(value, str):
        if not _is_plain(value, key):
            yield f"the {key} {_told(value)}"
    elif key == "use_pickle" and value:
        yield "pickled objects"


def _is_plain(text: str, key: str) -> bool:
    """Whether a text may stand under `key`."""
    if key in _FREE_TEXT:
        return True
    if key == "expr_str":
        return _is_expression(text)
    if key in ("target", "as_operator"):
        return _is_operator(text)
    if key in ("in_spec", "out_spec"):
        return _is_tree(json.loads(text)[1], named=key == "in_spec")
    if key == "path_name":
        return re.fullmatch(r"(weight|tensor)_\d+", text) is not None
    return _NAME.fullmatch(text) is not None


def _is_expression(text: str) -> bool:
    """Whether a text is calls of known functions on symbols and numbers, and nothing else."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        return False
    return _is_term(tree)


def _is_term(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and _FUNCTION.fullmatch(node.func.id) is not None
        settings = [keyword.value for keyword in node.keywords if keyword.arg]
        return known and len(settings) == len(node.keywords) and all(map(_is_term, (*node.args, *settings)))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_term(node.operand)
    if isinstance(node, ast.Name):
        return node.id in ("true", "false", "oo", "int_oo")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Some functions of sympy evaluate a text that they are given.
        return _SYMBOL.fullmatch(node.value) is not None
    return isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float)


def _is_operator(text: str) -> bool:
    """Whether a text names an operator on tensors or sizes, and not some other function that torch can reach."""
    import torch

    if _SCALAR_OPERATORS.fullmatch(text):
        return True
    parts = _OPERATOR.fullmatch(text)
    if parts is None or parts[1] in _TOUCH_FILES:
        return False
    found: Any = torch.ops
    for name in text.split(".")[2:]:
        found = getattr(found, name, None)
    return isinstance(found, torch._ops.OpOverload)


def _is_tree(tree: Any, *, named: bool) -> bool:
    """Whether a tree of inputs or outputs is made of tuples, lists and dicts; `named`: its names become code."""
    if tree["type"] is None:
        return tree["context"] is None and not tree["children_spec"]
    names = json.loads(tree["context"]) or []
    plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return (
        tree["type"] in _TREES
        and plain
        and (not named or all(map(_NAME.fullmatch, names)))
        and all(_is_tree(child, named=named) for child in tree["children_spec"])
    )


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
