"""Bytes on disk, and the machine that a figure was measured on."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paring.backends import cores
from paring.backends.cores import quota_cores, usable_cores
from paring.backends.probe_network import write_probe_network
from paring.backends.runner import write_graph
from paring.errors import BudgetError, InputError
from paring.flow.request import Request
from paring.measure.hardware import differences, hardware
from paring.measure.size import network_files, network_size_bytes
from paring.types import Budget
from tests import sleepy


def graph_with(weight):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in "xy")
    tensor = numpy_helper.from_array(weight, "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_file_is_its_own_bytes(tmp_path):
    network = write_probe_network("onnx", tmp_path)
    assert network_files(network) == (network,)
    assert network_size_bytes(network) == network.stat().st_size


def test_weights_in_a_file_beside_the_graph_count(tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(
        graph_with(np.ones((32, 32), np.float32)),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert network_files(path) == (path, tmp_path / "weights.bin")
    assert network_size_bytes(path) == path.stat().st_size + 4096


def test_a_folder_is_all_of_its_files(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "inner" / "b.bin").write_bytes(b"678")
    assert network_size_bytes(tmp_path) == 8


def test_a_missing_network_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.onnx is missing"):
        network_size_bytes(tmp_path / "absent.onnx")


def test_constants_inside_branches_count(tmp_path):
    bulk = helper.make_tensor("bulk", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    bulk.ClearField("raw_data")
    bulk.data_location = TensorProto.EXTERNAL
    entry = bulk.external_data.add()
    entry.key, entry.value = "location", "branch.bin"
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Identity", ["bulk"], ["o"])], "branch", [], [out], [bulk])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [condition], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])])
    path = tmp_path / "network.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    (tmp_path / "branch.bin").write_bytes(bytes(16))
    assert network_size_bytes(path) == path.stat().st_size + 16


def test_a_graph_too_large_for_one_file_is_written_in_two(tmp_path, monkeypatch):
    monkeypatch.setattr("paring.backends.runner.MAXIMUM_FILE_BYTES", 1000)
    graph = graph_with(np.ones((32, 32), np.float32))
    before = graph.SerializeToString()
    write_graph(graph, tmp_path / "network.onnx")
    assert network_files(tmp_path / "network.onnx")[1].name == "network.onnx.data"
    assert graph.SerializeToString() == before
    (weight,) = onnx.load(tmp_path / "network.onnx").graph.initializer
    assert np.array_equal(numpy_helper.to_array(weight), np.ones((32, 32)))


def test_the_fingerprint_is_plain_and_tells_what_decides_speed():
    found = hardware()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]
    assert found["cores"] == usable_cores()
    assert found["memory_bytes"] > 2**28
    assert {"numpy", "onnx", "onnxruntime", "torch"} <= set(found["packages"])
    assert found["isa"] == sorted(found["isa"])


def confined(root, groups, files):
    """A system's folders: what the process is told of its control groups, and the files of those."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "whole"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "390000 100000\n"}, 3),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ("0::/host/path\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            "5:memory:/\n4:cpu,cpuacct:/docker/1\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            "4:cpu,cpuacct:/\n0::/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
    ],
)
def test_a_cpu_quota_leaves_whole_cores(groups, files, whole, tmp_path):
    assert quota_cores(confined(tmp_path, groups, files)) == whole


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert quota_cores(tmp_path) is None


def test_a_quota_limits_the_threads_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "quota_cores", lambda root: 3)
    assert Request(sleepy.task(), Budget(), tmp_path).thread_count == 3
    assert Request(sleepy.task(), Budget(), tmp_path, threads=2).thread_count == 2
    with pytest.raises(BudgetError, match=r"threads=5 are more than the 3 cores .*: give at most 3, or None for all"):
        Request(sleepy.task(), Budget(), tmp_path, threads=5)
    monkeypatch.setattr(cores, "quota_cores", lambda root: None)
    assert Request(sleepy.task(), Budget(), tmp_path).thread_count == 8


def test_a_machine_does_not_differ_from_itself():
    assert differences(hardware(), hardware()) == ()


def test_differences_are_told_in_words():
    here = hardware()
    there = {
        **here,
        "cpu": "Another 3000",
        "cores": 96,
        "os": "elsewhere",
        "packages": {**here["packages"], "torch": "1.0"},
    }
    told = differences(there, here)
    assert told[0] == f"cpu: Another 3000 there, {here['cpu']} here"
    assert told[1] == f"cores: 96 there, {here['cores']} here"
    assert told[2] == f"torch: 1.0 there, {here['packages']['torch']} here"
    assert len(told) == 3
