"""Sparse networks on disk: zeros take a bit, the file comes back byte for byte, and it runs as before."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import paring
from paring.artifact import Artifact, Manifest
from paring.artifact.sparse import packed, readable
from paring.backends.torch import Torch
from paring.data.job import Job
from paring.errors import ArtifactError
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques.prune_weights import PruneWeights
from paring.techniques.static_quantization import StaticQuantization
from paring.tune.candidate import Candidate
from paring.types import Array, Budget, Task
from tests.command_line import typed
from tests.structures import images, job_of, trained

TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32]


def graph(constants: list[Array]) -> onnx.ModelProto:
    """A graph that holds these constants and nothing that runs."""
    tensors = [numpy_helper.from_array(value, f"c{number}") for number, value in enumerate(constants)]
    result = helper.make_tensor_value_info("c0", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([], "constants", [], [result], tensors))


@given(st.integers(0, 999), st.lists(st.sampled_from(TYPES), min_size=1, max_size=4), st.floats(0, 1))
def test_every_file_comes_back_byte_for_byte(seed: int, types: list[type], share: float) -> None:
    generator = np.random.default_rng(seed)
    constants = []
    for kind in types:
        values = generator.normal(size=int(generator.integers(1, 9000))) * 50
        values[generator.random(len(values)) < share] = 0
        constants.append(np.where(values == 0, 128 if kind is np.uint8 else 0, np.clip(values, 0, 99)).astype(kind))
    constants.append(constants[0])  # The same bytes twice.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        onnx.save(graph(constants), file)
        before = file.read_bytes()
        smaller = packed(file)
        assert smaller.stat().st_size <= len(before)
        assert [path.name for path in Path(folder).iterdir()] == [smaller.name]
        with readable(smaller) as whole:
            assert whole.read_bytes() == before


def test_zeros_cost_a_bit_and_no_more(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    weights[:90_000] = 0
    onnx.save(graph([weights]), tmp_path / "network.onnx")
    smaller = packed(tmp_path / "network.onnx")
    assert smaller.name == "network.onnx.sparse"
    assert smaller.stat().st_size < 100_000 / 8 + 10_000 * 4 + 3000


def test_small_layers_cost_as_little(tmp_path: Path) -> None:
    """Each has a row of four numbers beside its bits and its values."""
    generator = np.random.default_rng(0)
    layers = [generator.normal(size=(31, 31)).astype(np.float32) for _ in range(20)]
    for layer in layers:
        layer[generator.random(layer.shape) < 0.95] = 0
    onnx.save(graph(layers), tmp_path / "network.onnx")
    smaller = packed(tmp_path / "network.onnx")
    others = sum(4 * int((layer != 0).sum()) + 121 + 32 for layer in layers)
    assert smaller.stat().st_size < others + 2000 < 0.16 * 20 * 31 * 31 * 4


def test_what_would_not_be_smaller_is_not_packed(tmp_path: Path) -> None:
    """Two zeros are fewer bytes than the row that would tell of them."""
    sizes = []
    for tiny in ([], [np.zeros(2, np.float32)] * 100):
        onnx.save(graph([np.zeros(9000, np.float32), *tiny]), tmp_path / "network.onnx")
        before = (tmp_path / "network.onnx").stat().st_size
        sizes.append(before - packed(tmp_path / "network.onnx").stat().st_size)
    assert sizes[0] == sizes[1]


def test_zeros_of_a_torch_archive_cost_a_bit_and_it_is_served_as_before(tmp_path: Path) -> None:
    model = trained(nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 200)))
    task = Task(model, [(torch.randn(8, 64), torch.zeros(8).long())])
    signature = task_signature(task)
    networks = Networks(Job.of(task), signature, tmp_path / "work")
    dense, sparse = (networks.build(Candidate(recipe, Torch(), "baseline")) for recipe in ((), (PruneWeights(0.9),)))
    assert (dense.network.name, sparse.network.name) == ("network.pt2", "network.pt2.sparse")
    weights = 200 * 64 + 200 * 200
    saved = dense.network.stat().st_size - sparse.network.stat().st_size
    assert saved == pytest.approx(4 * 0.9 * weights - weights / 8, rel=0.02)

    rows = torch.randn(4, 64)
    expected = PruneWeights(0.9).apply(model, Job.of(task))(rows).detach().numpy()
    golden = ({"input": rows.numpy()}, {"output": expected})
    manifest = Manifest("task", signature, "torch", {}, [], "PruneWeights", threads=1, batch_size=4)
    artifact = Artifact.write(tmp_path / "best", manifest, [sparse.network], golden)
    np.testing.assert_allclose(paring.load(artifact.path).run(golden[0])["output"], expected, atol=1e-5)
    finished = typed("verify", artifact.path, "--time-limit", "1s", cwd=tmp_path)
    assert "accuracy evidence holds" in finished.stdout, finished.stderr


def test_a_dense_network_is_left_as_it_is(tmp_path: Path) -> None:
    onnx.save(graph([np.arange(9000, dtype=np.float32)]), tmp_path / "network.onnx")
    assert packed(tmp_path / "network.onnx") == tmp_path / "network.onnx"


def test_zeros_before_a_batch_norm_that_turns_signs_cost_no_more_than_others(tmp_path: Path) -> None:
    """Folded into the convolution its negative factors make -0.0 of them, which is a value like any other."""
    sizes = {}
    for sign in (1, -1):
        model = trained(nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)))
        model[1].weight.detach().abs_().mul_(sign)
        pruned = PruneWeights(0.9).apply(model, job_of(model, images()))
        graph = export_onnx(export_program(pruned, images()), signature_of(pruned, images()))
        onnx.save(graph, tmp_path / "network.onnx")
        (found,) = ReferenceEvaluator(graph).run(None, {"input": images().numpy()})
        np.testing.assert_allclose(found, pruned(images()).detach(), atol=1e-5)
        sizes[sign] = packed(tmp_path / "network.onnx").stat().st_size
    assert sizes[-1] == sizes[1] < 4 * 64 * 27


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_file_is_named(tmp_path: Path, damage: object) -> None:
    onnx.save(graph([np.zeros(9000, dtype=np.float32)]), tmp_path / "network.onnx")
    file = packed(tmp_path / "network.onnx")
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtifactError, match=r"network\.onnx\.sparse can't be unpacked"), readable(file):
        pass


def compressed(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def with_too_few_bits(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    arrays["runs"][0, 1] = 2**50
    np.savez(stream, **arrays)  # type: ignore[arg-type]


def with_too_few_values(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez(stream, **{**arrays, "values": arrays["values"][:4]})  # type: ignore[arg-type]


def with_runs_that_go_back(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez(stream, **{name: np.concatenate([array, array]) for name, array in arrays.items()})


def with_a_run_of_nothing(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    arrays["runs"][0, 1] = 0
    np.savez(stream, **arrays)  # type: ignore[arg-type]


def with_rows_that_cost_nothing(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    """Millions of rows of no bytes."""
    np.savez(stream, **{**arrays, "runs": np.zeros((2_000_000, 4), "V0")})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (with_runs_that_go_back, "a run at "),
        (with_a_run_of_nothing, "a run has 0 items of 4 bytes"),
        (with_rows_that_cost_nothing, "runs.npy holds |V0 (2000000, 4)"),
        (compressed, "its arrays are compressed, and could be of any size"),
        (with_too_few_bits, f"{2**50} items have 9000 bits and 8 bytes"),
        (with_too_few_values, "9000 items have 9000 bits and 4 bytes"),
    ],
)
def test_a_file_never_becomes_larger_than_it_shows(
    tmp_path: Path, write: Callable[[dict[str, Array], IO[bytes]], None], says: str
) -> None:
    weights = np.zeros(9000, dtype=np.float32)
    weights[:2] = 1, 2
    onnx.save(graph([weights]), tmp_path / "network.onnx")
    file = packed(tmp_path / "network.onnx")
    with np.load(file) as arrays:
        content = dict(arrays)
    with file.open("wb") as stream:
        write(content, stream)
    with pytest.raises(ArtifactError, match=re.escape(f"can't be unpacked ({says}")), readable(file):
        pass


def test_a_run_stores_a_pruned_network_without_its_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.9)
    rows = torch.randn(6000, 64)
    with torch.no_grad():
        best_two = model(rows).topk(2).values
        rows = rows[(best_two[:, 0] - best_two[:, 1]).argsort()[-1200:]]  # No answer hangs on the last bit.
        data = [(rows, model(rows).argmax(1))]
    task = Task(model, data)
    result = paring.optimize(
        task,
        budget=Budget(max_drop=0.1, objective="size"),
        out=tmp_path,
        time_limit_s=25,
        techniques=[StaticQuantization()],
        backends=["onnxruntime"],
        progress=False,
    )
    best = tmp_path / "best"
    assert (best / "network.onnx.sparse").is_file()
    assert result.best.size_bytes < 0.7 * 4 * sum(parameter.numel() for parameter in model.parameters())
    (found,) = paring.load(best).run({"input": rows[:8].numpy()}).values()
    assert found.argmax(1).tolist() == data[0][1][:8].tolist()
