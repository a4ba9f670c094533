"""What starts without a training library: `import paring`, names, probes, and whatever serves an artifact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

import paring
from paring.artifact.packed import packed
from paring.backends.probe_network import write_probe_network
from tests.command_line import ENVIRONMENT
from tests.test_packed_files import graph as numbers
from tests.test_verify import graph, written

ROOT = Path(paring.__file__).parent
TORCH_FREE = ("errors", "types", "registry", "artifact", "backends")
HEAD = """
import sys
def absent(after, *heavy):
    assert not (found := [name for name in heavy if name in sys.modules]), f"{after} imported {found}"
"""

NAMES = """
import paring
absent("import paring", "torch", "onnx", "numpy")
from paring.registry import names, reference
names("technique"), reference("backend", "torch")
absent("a name", "torch", "onnxruntime", "openvino", "paring.backends.torch")
from paring.backends.probe import probe
rows = probe(["onnxruntime", "openvino"])
assert all(row.works for row in rows), rows
absent("probing", "torch", "onnxruntime", "openvino")
"""

SERVING = """
import importlib
from pathlib import Path
import numpy as np
import paring
network, modules, kinds = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(",")
for module in modules:
    importlib.import_module(module)
    absent(f"importing {module}", "torch")
from paring.backends.process import class_reference
from paring.backends.worker import Worker
from paring.registry import find
inputs = {"a": np.zeros((1, 3, 8, 6), np.float32), "b": np.zeros((1, 4), np.float32)}
for kind in kinds:
    worker = Worker(network.parent)
    order = {"command": "load", "class": class_reference(find("backend", kind)), "options": {}, "threads": 1}
    answer = worker.obey({**order, "network": str(network), "device": "cpu"})
    assert answer == {}, answer
    assert set(worker.session.run(inputs)) == {"y", "z"}
    absent(f"a worker with {kind}", "torch")
    session = paring.load(network.with_name(kind))
    session.run({"a": np.ones((2, 3), np.float32), "b": np.arange(2)})
    absent(f"loading an artifact for {kind}", "torch")
"""

UNPACKING = """
from pathlib import Path
from paring.artifact.packed import readable
with readable(Path(sys.argv[1])) as network:
    assert network.stat().st_size > 9000
absent("unpacking a network", "torch", "onnx", "onnxruntime")
"""


def told(code: str, *arguments: object) -> str:
    """What a process with this code has to say on stderr; nothing where it ended well."""
    command = [sys.executable, "-c", HEAD + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    return done.stderr if done.returncode else ""


def test_names_and_probes_import_nothing_heavy() -> None:
    assert told(NAMES) == ""


def test_what_serves_an_artifact_never_imports_torch(tmp_path: Path) -> None:
    files = [f.relative_to(ROOT) for f in sorted(ROOT.rglob("*.py"))]
    served = [f.with_suffix("") for f in files if f.parts[0].removesuffix(".py") in TORCH_FREE]
    modules = [".".join(("paring", *f.parts)).removesuffix(".__init__") for f in served]
    assert len(modules) > 15
    kinds = ("onnxruntime", "openvino")
    for kind in kinds:
        written(tmp_path / kind, graph(1.0), "Cheapen", backend=kind)
    assert told(SERVING, write_probe_network("onnx", tmp_path), ",".join(modules), ",".join(kinds)) == ""


def test_a_packed_network_is_unpacked_by_numpy_alone(tmp_path: Path) -> None:
    onnx.save(numbers([np.zeros(9000, np.int8)]), tmp_path / "network.onnx")
    assert told(UNPACKING, packed(tmp_path / "network.onnx")) == ""
