"""Networks on disk at their true width: the file comes back byte for byte, and it runs as before."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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
from paring.artifact import packed as packed_files
from paring.artifact.packed import leaves_out, packed, readable
from paring.backends.torch import Torch
from paring.data.job import Job
from paring.errors import ArtifactError
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques.prune_weights import PruneWeights
from paring.techniques.static_quantization import StaticQuantization
from paring.tune.candidate import Candidate
from paring.types import Array, Budget, Signature, Task, TensorSpec
from tests.command_line import typed
from tests.quantization_nets import constant, make, node, rows, run
from tests.structures import images, job_of, trained

TYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.bool_]
ROW, ARCHIVE = 40, 1500
"""Bytes: what a run costs beside its data, and a file beside its runs and a graph of one constant."""


def graph(constants: list[Array]) -> onnx.ModelProto:
    """A graph that holds these constants and nothing that runs."""
    tensors = [numpy_helper.from_array(value, f"c{number}") for number, value in enumerate(constants)]
    result = helper.make_tensor_value_info("c0", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([], "constants", [], [result], tensors))


def stored(folder: Path, *constants: Array) -> Path:
    """The packed file of a graph of these constants, which becomes the graph's again."""
    file = folder / "network.onnx"
    onnx.save(graph(list(constants)), file)
    before = file.read_bytes()
    smaller = packed(file)
    assert smaller.stat().st_size <= len(before)
    assert [path.name for path in folder.iterdir()] == [smaller.name]
    with readable(smaller) as whole:
        assert whole.read_bytes() == before
    return smaller


@st.composite
def constants(draw: st.DrawFn) -> Array:
    """Of any type and number of values, one of which may be much more common than the others."""
    kind, levels = draw(st.sampled_from(TYPES)), draw(st.integers(1, 300))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    items = generator.integers(0, levels, draw(st.integers(1, 9000)))
    items[generator.random(len(items)) < draw(st.sampled_from([0, 0.3, 0.9, 1]))] = generator.integers(0, levels)
    table = generator.integers(0, 256, levels * np.dtype(kind).itemsize).astype(np.uint8)
    return (table % 2 if kind is np.bool_ else table).view(kind)[items]


@given(st.lists(constants(), min_size=1, max_size=4), st.integers(8, 16))
def test_every_file_comes_back_byte_for_byte(given: list[Array], longest: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_files, "LONGEST_RUN", 2**longest)
        stored(Path(folder), *given, given[0])  # The same bytes twice.


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.float16, np.float32, np.int64])
@pytest.mark.parametrize("levels", [2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 100, 128, 256])
def test_constants_of_few_values_take_their_true_width(tmp_path: Path, kind: type, levels: int) -> None:
    """All values as often, so that none is worth a mask."""
    items = np.random.default_rng(0).permutation(np.arange(60_000) % levels)
    size = stored(tmp_path, (items - levels // 2).astype(np.int8).astype(kind)).stat().st_size
    bits = {3: 1.6, 7: 48 / 17, 100: 40 / 6}.get(levels, math.ceil(math.log2(levels)))
    least = min(math.ceil(bits * 60_000 / 8) + levels * np.dtype(kind).itemsize, 60_000 * np.dtype(kind).itemsize)
    assert least <= size < least + ROW + ARCHIVE


def test_bytes_that_hold_two_weights_take_the_width_of_both(tmp_path: Path) -> None:
    """As 4-bit matrix products have them: of seven values each there are 49 pairs."""
    low, high = np.random.default_rng(0).integers(5, 12, (2, 50_000))
    assert stored(tmp_path, (low + 16 * high).astype(np.uint8)).stat().st_size < 50_000 * 6 / 8 + 49 + ROW + ARCHIVE


def test_few_values_most_of_them_zero_take_a_bit_and_their_width(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for kind in (np.int8, np.float32):
        values = generator.permutation(np.array([*range(-4, 0), *range(1, 5)] * 1250 + [0] * 90_000)).astype(kind)
        size = stored(tmp_path, values).stat().st_size
        least = 100_000 / 8 + 10_000 * 3 / 8
        assert least < size < least + 9 * values.itemsize + ROW + ARCHIVE
        (tmp_path / "network.onnx.packed").unlink()


def test_a_constant_is_packed_in_pieces_each_in_its_own_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_files, "LONGEST_RUN", 2**14)
    dense = np.random.default_rng(0).normal(size=2**12).astype(np.float32)
    file = stored(tmp_path, np.concatenate([np.zeros(2**12, np.float32), dense, np.sign(dense), dense[:100]]))
    with np.load(file) as arrays:
        assert [tuple(row[1:]) for row in arrays["runs"].tolist()] == [(2**12, 4, 0, 0), (2**12, 4, 2**12, 2)]


@pytest.mark.parametrize(
    ("values", "zeros"),
    [
        ([0, 0, 0, 1.5, 2.5], True),
        ([-1, 0, 0, 0, 0, 0, 0, 0, 1], True),
        ([-1, 0, 1], False),
        ([-3, -2, -1, 0, 1, 2, 3], False),
        ([-1, 1], False),
    ],
)
def test_a_file_that_is_small_for_its_zeros_is_told_from_one_that_is_for_its_few_values(
    tmp_path: Path, values: list[float], zeros: bool
) -> None:
    weights = np.random.default_rng(0).permutation(np.resize(np.array(values, np.float32), 20_000))
    assert leaves_out(stored(tmp_path, weights)) == zeros


def test_a_file_that_is_not_packed_leaves_nothing_out(tmp_path: Path) -> None:
    assert not leaves_out(stored(tmp_path, np.arange(9000, dtype=np.float32)))


def test_a_network_whose_weights_lie_in_another_file_is_left_alone(tmp_path: Path) -> None:
    """A file for a runtime would stand in a folder of its own, without the other."""
    network = graph([np.zeros(9000, np.float32), np.arange(9000, dtype=np.float32)])
    onnx.save(network, tmp_path / "network.onnx", save_as_external_data=True, location="data", size_threshold=36_000)
    inline = graph([np.zeros(9000, np.float32)]).graph.initializer[0]
    held = onnx.load(tmp_path / "network.onnx", load_external_data=False)
    held.graph.initializer[0].CopyFrom(inline)
    onnx.save(held, tmp_path / "network.onnx")
    assert packed(tmp_path / "network.onnx") == tmp_path / "network.onnx"


def quantized(levels: int) -> onnx.ModelProto:
    """Products with int8 weights of so many levels about zero, read through DequantizeLinear."""
    generator = np.random.default_rng(0)
    wide, narrow = (generator.integers(-(levels // 2), levels // 2 + 1, shape) for shape in ((64, 300), (300, 5)))
    return make(
        [
            node("DequantizeLinear", "w0 s0", "d0", axis=1),
            node("MatMul", "x d0", "h"),
            node("Relu", "h", "r"),
            node("DequantizeLinear", "w1 s1", "d1"),
            node("MatMul", "r d1", "y"),
        ],
        {"x": ("batch", 64)},
        {"y": ("batch", 5)},
        {
            "w0": wide.astype(np.int8),
            "s0": generator.random(300).astype(np.float32),
            "w1": narrow.astype(np.int8),
            "s1": np.float32(0.1),
        },
    )


@pytest.mark.parametrize(("levels", "bits"), [(3, 1.6), (7, 48 / 17), (15, 4)])
def test_an_artifact_of_few_integers_is_as_small_and_serves_the_same(tmp_path: Path, levels: int, bits: float) -> None:
    network, x = quantized(levels), rows(4, 64)
    (expected,) = run(network, x)
    onnx.save(network, tmp_path / "network.onnx")
    whole = (tmp_path / "network.onnx").stat().st_size
    smaller = packed(tmp_path / "network.onnx")
    items = constant(network, "w0").size + constant(network, "w1").size
    assert whole - smaller.stat().st_size == pytest.approx(items * (1 - bits / 8), abs=ARCHIVE)

    signature = Signature(
        (TensorSpec("x", "float32", (None, 64)),), (TensorSpec("y", "float32", (None, 5)),), "tensor", "tensor"
    )
    manifest = Manifest("task", signature, "onnxruntime", {}, [], "original", threads=1, batch_size=4)
    artifact = Artifact.write(tmp_path / "best", manifest, [smaller], ({"x": x}, {"y": expected}))
    assert artifact.network.name == "network.onnx.packed"
    np.testing.assert_array_equal(paring.load(artifact.path).run({"x": x})["y"], expected)
    finished = typed("verify", artifact.path, "--time-limit", "1s", cwd=tmp_path)
    assert "accuracy evidence holds" in finished.stdout, finished.stderr


def test_shared_weights_of_a_torch_archive_take_the_width_of_their_places(tmp_path: Path) -> None:
    model = trained(nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 200)))
    sizes = []
    for shared in (False, True):
        for layer in (model[0], model[2]):
            assert isinstance(layer, nn.Linear)
            if shared:
                book = layer.weight.detach().flatten().sort().values[:: layer.weight.numel() // 16][:16]
                layer.weight.data = book[torch.randint(16, layer.weight.shape)]
        folder = tmp_path / str(shared)
        built = Networks(job_of(model, torch.randn(8, 64)), signature_of(model, torch.randn(8, 64)), folder).build(
            Candidate((), Torch(), "baseline")
        )
        sizes.append(built.network.stat().st_size)
    assert sizes[0] - sizes[1] == pytest.approx((200 * 64 + 200 * 200) * 3.5, rel=0.01)


def test_zeros_cost_a_bit_and_no_more(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    weights[:90_000] = 0
    onnx.save(graph([weights]), tmp_path / "network.onnx")
    smaller = packed(tmp_path / "network.onnx")
    assert smaller.name == "network.onnx.packed"
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
    assert (dense.network.name, sparse.network.name) == ("network.pt2", "network.pt2.packed")
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
    with pytest.raises(ArtifactError, match=r"network\.onnx\.packed can't be unpacked"), readable(file):
        pass


def compressed(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def with_row(**changes: int) -> Callable[[dict[str, Array], IO[bytes]], None]:
    """What writes other numbers into the first row."""

    def write(arrays: dict[str, Array], stream: IO[bytes]) -> None:
        for name, value in changes.items():
            arrays["runs"][0, ["start", "items", "size", "kept", "levels"].index(name)] = value
        np.savez(stream, **arrays)  # type: ignore[arg-type]

    return write


def with_too_little_data(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez(stream, **{**arrays, "data": arrays["data"][:-1]})  # type: ignore[arg-type]


def with_other_data(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez(stream, **{**arrays, "data": np.full_like(arrays["data"], 255)})  # type: ignore[arg-type]


def with_runs_that_go_back(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez(stream, **{name: np.concatenate([array, array]) for name, array in arrays.items()})


def with_rows_that_cost_nothing(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    """Millions of rows of no bytes."""
    np.savez(stream, **{**arrays, "runs": np.zeros((2_000_000, 5), "V0")})  # type: ignore[arg-type]


def with_short_rows(arrays: dict[str, Array], stream: IO[bytes]) -> None:
    np.savez(stream, **{**arrays, "runs": arrays["runs"][:, :4]})  # type: ignore[arg-type]


SPARSE, TERNARY = np.zeros(9000, np.float32), np.resize(np.array([-1, 0, 1], np.int8), 9000)
SPARSE[:16] = np.resize([1.5, 2.5], 16)


@pytest.mark.parametrize(
    ("weights", "write", "says"),
    [
        (SPARSE, with_runs_that_go_back, "a run at "),
        (SPARSE, with_row(start=2**40), f"a run at {2**40} lies outside the rest"),
        (SPARSE, with_row(start=-1), "a run at -1 lies outside the rest"),
        (SPARSE, with_row(items=0, kept=0), "a run has 0 items of 4 bytes"),
        (SPARSE, with_row(items=2**50), f"a run has {2**50} items of 4 bytes"),
        (SPARSE, with_row(size=3), "a run has 9000 items of 3 bytes"),
        (SPARSE, with_row(items=2**18), "262144 items need 32782 bytes, and 1139 are left"),
        (SPARSE, with_row(items=9001), "9001 items need 1140 bytes, and 1139 are left"),
        (SPARSE, with_row(kept=-1), "a run keeps -1 of 9000 items, of 2 values"),
        (SPARSE, with_row(kept=9001), "a run keeps 9001 of 9000 items, of 2 values"),
        (SPARSE, with_row(kept=3), "16 items are marked, and 3 are kept"),
        (SPARSE, with_row(levels=1), "a run keeps 16 of 9000 items, of 1 values"),
        (SPARSE, with_row(levels=257), "a run keeps 16 of 9000 items, of 257 values"),
        (SPARSE, with_too_little_data, "9000 items need 1139 bytes, and 1138 are left"),
        (TERNARY, with_row(items=2**20, kept=2**20), f"{2**20} items need 209719 bytes, and 1803 are left"),
        (TERNARY, with_other_data, "a word is larger than its digits of base 3"),
        (TERNARY, with_short_rows, ""),
        (SPARSE, with_rows_that_cost_nothing, "runs.npy holds |V0 (2000000, 5)"),
        (SPARSE, compressed, "its arrays are compressed, and could be of any size"),
    ],
)
def test_a_file_never_becomes_larger_than_it_shows(
    tmp_path: Path, weights: Array, write: Callable[[dict[str, Array], IO[bytes]], None], says: str
) -> None:
    file = stored(tmp_path, weights)
    with np.load(file) as arrays:
        content = dict(arrays)
    with file.open("wb") as stream:
        write(content, stream)
    with pytest.raises(ArtifactError, match=re.escape(f"can't be unpacked ({says}")), readable(file):
        pass


@given(constants(), st.data())
def test_a_changed_byte_is_refused_or_changes_no_more_than_values(constant: Array, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = stored(Path(folder), np.resize(constant, 3000), np.zeros(3000, np.int8))
        with np.load(file) as arrays:
            content = dict(arrays)
        changed = content[data.draw(st.sampled_from(sorted(content)))].reshape(-1).view(np.uint8)
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
        with file.open("wb") as stream:
            np.savez(stream, **content)
        with contextlib.suppress(ArtifactError), readable(file) as whole:
            assert whole.stat().st_size <= 64 * file.stat().st_size


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
    assert (best / "network.onnx.packed").is_file()
    assert result.best.size_bytes < 0.7 * 4 * sum(parameter.numel() for parameter in model.parameters())
    (found,) = paring.load(best).run({"input": rows[:8].numpy()}).values()
    assert found.argmax(1).tolist() == data[0][1][:8].tolist()
