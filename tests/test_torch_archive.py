"""Torch archives from people whom nobody should trust: whatever they plant is refused and named, and never run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paring.artifact import Artifact, Manifest
from paring.artifact.packed import packed, readable
from paring.backends.torch import Torch
from paring.backends.torch_archive import check_archive, write_archive
from paring.errors import ArtifactError, BackendError
from paring.types import Signature, TensorSpec
from tests.command_line import refused, typed

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
CODE = "__import__('pathlib').Path('planted').touch()"

INPUTS = {"x": np.ones((2, 4), np.float32), "y": np.ones((2, 8, 4), np.float32)}

Json = dict[str, Any]
Attack = Callable[[dict[str, bytes]], None]


class Net(nn.Module):
    """Sizes that are computed, operators with texts, several outputs of one operator, a branch without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"in-0": nn.Linear(4, 3)})
        self.offset = torch.ones(3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            hidden = self.layers["in-0"](x)
        values, _ = torch.ops.aten.max_pool2d_with_indices(y[:, None], [2, 2])
        rows = torch.einsum("bij,bkj->bik", y, y) * (max(x.shape[0], y.shape[1]) * y.shape[1] // 3)
        return {"the logits": hidden + self.offset, "pooled": values, "rows": rows}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=4)
    inputs = {"x": torch.ones(6, 4), "y": torch.ones(6, 8, 4)}
    shapes = {"x": {0: batch}, "y": {0: batch, 1: length}}
    program = torch.export.export(Net().eval(), (), inputs, dynamic_shapes=shapes, strict=False)
    path = tmp_path_factory.mktemp("honest") / "network.pt2"
    write_archive(program, path)
    return path


def test_an_ordered_dict_is_answered_by_its_keys(tmp_path: Path) -> None:
    class Ordered(nn.Module):
        def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
            return OrderedDict(out=x + 1, aux=x * 2)

    program = torch.export.export(Ordered().eval(), (torch.ones(2, 4),), strict=False)
    write_archive(program, tmp_path / "network.pt2")
    session = Torch().load(tmp_path / "network.pt2", threads=1)
    assert list(session.run({session.inputs[0].name: np.ones((2, 4), dtype=np.float32)})) == ["out", "aux"]


def spoilt(source: Path, target: Path, attack: Attack) -> Path:
    with zipfile.ZipFile(source) as old:
        root = old.namelist()[0].partition("/")[0]
        members = {name.removeprefix(f"{root}/"): old.read(name) for name in old.namelist()}
    attack(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name, content in members.items():
            new.writestr(f"{root}/{name}", content)
    return target


def in_json(member: str, change: Callable[[Json], None]) -> Attack:
    def attack(members: dict[str, bytes]) -> None:
        values = json.loads(members[member])
        change(values)
        members[member] = json.dumps(values).encode()

    return attack


def member(name: str, content: bytes) -> Attack:
    return lambda members: members.update({name: content})


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (CODE,)


def pickled() -> bytes:
    stream = io.BytesIO()
    torch.save(Bomb(), stream, pickle_module=pickle)
    return stream.getvalue()


def graph_of(values: Json) -> Json:
    graph: Json = values["graph_module"]["graph"]
    return graph


def expression(text: str) -> Callable[[Json], None]:
    def change(values: Json) -> None:
        sizes = graph_of(values)["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text

    return change


def target(name: str, *texts: str) -> Callable[[Json], None]:
    def change(values: Json) -> None:
        inputs = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in texts]
        node = {"target": name, "inputs": inputs, "outputs": [], "metadata": {}, "name": "planted"}
        graph_of(values)["nodes"].insert(0, {**node, "is_hop_single_tensor_return": None})

    return change


def call_spec(values: Json) -> Json:
    spec: Json = values["graph_module"]["module_call_graph"][0]["signature"]
    return spec


def tree(context: str, kind: str = "builtins.dict") -> Callable[[Json], None]:
    def change(values: Json) -> None:
        call_spec(values)["out_spec"] = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    return change


def renamed(values: Json) -> None:
    graph_of(values)["nodes"][0]["name"] = f"x = {CODE}; y"


def opaque(values: Json) -> None:
    values["config"]["bomb"] = {**values["config"]["offset"], "path_name": "opaque_obj_0", "use_pickle": True}


def marked(values: Json) -> None:
    values["config"]["offset"]["use_pickle"] = True


def misplaced(values: Json) -> None:
    values["config"]["layers.in-0.bias"]["path_name"] = "../constants/custom_obj_0"


ATTACKS: dict[str, tuple[Attack, str]] = {
    "expression": (in_json(MODEL, expression(CODE)), "the expr_str"),
    "text in an expression": (in_json(MODEL, expression(f'Max(1, "{CODE}")')), "the expr_str"),
    "attribute in an expression": (in_json(MODEL, expression("Integer(1).__class__")), "the expr_str"),
    "function": (in_json(MODEL, target("torch.hub.os.system", "touch planted")), "the target 'torch.hub.os.system'"),
    "operator module": (in_json(MODEL, target("_operator.methodcaller", "touch")), "the target '_operator.method"),
    "file operator": (in_json(MODEL, target("torch.ops.aten.from_file.default", "planted")), "the target"),
    "no operator": (in_json(MODEL, target("torch.ops.aten.__init__.__globals__")), "the target"),
    "name that is code": (in_json(MODEL, renamed), "the name"),
    "import in a tree": (in_json(MODEL, tree('{"__enum__": 1, "fqn": "os:x", "name": "y"}')), "the out_spec"),
    "factory in a tree": (in_json(MODEL, tree("[]", "collections.defaultdict")), "the out_spec"),
    "note": (in_json(MODEL, lambda v: graph_of(v)["nodes"][0]["metadata"].update(torch_fn=CODE)), "metadata"),
    "object": (in_json(MODEL, lambda v: graph_of(v)["custom_obj_values"].update(a={})), "custom_obj_values"),
    "pickled sample inputs": (member(SAMPLES, pickled()), f"{SAMPLES} holds pickled objects"),
    "pickled weight": (in_json(CONSTANTS, marked), f"{CONSTANTS} holds pickled objects"),
    "pickled object": (in_json(CONSTANTS, opaque), "opaque_obj_0"),
    "legacy weights": (member("data/weights/model.pt", pickled()), "data/weights/model.pt holds"),
    "legacy constants": (member("data/constants/model.pt", pickled()), "data/constants/model.pt holds"),
    "library": (member("data/aotinductor/model/x.so", b"\x7fELF"), "data/aotinductor/model/x.so holds"),
    "second model": (member("models/other.json", b"{}"), "models/other.json holds"),
    "path": (in_json(WEIGHTS, misplaced), "the path_name"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_archive_that_could_run_code_is_refused(
    name: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, says = ATTACKS[name]
    path = spoilt(honest, tmp_path / "network.pt2", attack)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError) as error:
        Torch().load(path, threads=1)
    assert says in str(error.value)
    assert "network.pt2 is refused" in str(error.value)
    assert not Path("planted").exists()


def test_a_packed_archive_is_read_as_carefully(honest: Path, tmp_path: Path) -> None:
    def attack(members: dict[str, bytes]) -> None:
        ATTACKS["expression"][0](members)
        members["data/weights/weight_9"] = bytes(100_000)

    file = packed(spoilt(honest, tmp_path / "network.pt2", attack))
    assert file.name == "network.pt2.packed"
    with pytest.raises(ArtifactError, match=r"network\.pt2 is refused"), readable(file) as whole:
        Torch().load(whole, threads=1)


def test_the_older_format_is_not_tried(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.export.load goes on with it where an archive fails, and unpickles what it finds."""
    path = spoilt(honest, tmp_path / "network.pt2", member("archive_version", b"99"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("version", "8.20")
        archive.writestr("serialized_exported_program.json", "{}")
        for name in ("state_dict", "constants", "example_inputs"):
            archive.writestr(f"serialized_{name}.pt", pickled())
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ArtifactError, BackendError)):
        Torch().load(path, threads=1)
    assert not Path("planted").exists()


def test_guards_are_not_run(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoilt(honest, tmp_path / "network.pt2", in_json(MODEL, lambda v: v.update(guards_code=[CODE])))
    monkeypatch.chdir(tmp_path)
    assert list(Torch().load(path, threads=1).run(INPUTS)) == ["the logits", "pooled", "rows"]
    assert not Path("planted").exists()


def test_what_a_network_needs_is_let_through(honest: Path) -> None:
    check_archive(honest)
    inputs = {"x": np.ones((2, 4), np.float32), "y": np.ones((2, 9, 4), np.float32)}
    found = Torch().load(honest, threads=1).run(inputs)
    np.testing.assert_allclose(found["rows"], np.full((2, 9, 9), 4 * (9 * 9 // 3)))


def test_an_archive_tells_nothing_of_where_it_was_made(honest: Path) -> None:
    with zipfile.ZipFile(honest) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, content in contents.items() if __file__.encode() in content]
    assert not [name for name, content in contents.items() if name.endswith(".pt") and content]


def test_the_command_line_refuses_an_artifact_whose_sums_were_made_to_fit(honest: Path, tmp_path: Path) -> None:
    specs = tuple(TensorSpec(name, "float32", (None, *array.shape[1:])) for name, array in INPUTS.items())
    signature = Signature(specs, (TensorSpec("rows", "float32", (None, 8, 8)),), "dict", "dict")
    manifest = Manifest("task", signature, "torch", {}, [], "original", threads=1, batch_size=1)
    network = spoilt(honest, tmp_path / "network.pt2", ATTACKS["expression"][0])
    golden = (INPUTS, {"rows": np.ones((2, 8, 8), np.float32)})
    artifact = Artifact.write(tmp_path / "artifact", manifest, [network], golden)
    finished = typed("verify", artifact.path, cwd=tmp_path)
    assert "network.pt2 is refused: models/model.json holds the expr_str" in refused(finished)
    assert not (tmp_path / "planted").exists()
