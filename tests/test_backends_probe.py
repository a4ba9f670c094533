"""Which backends work here: a row for each, whatever it does to its process."""

from __future__ import annotations

from paring.backends.probe import Probe, probe
from paring.backends.torch import Torch
from paring.registry import names
from tests.faulty_backends import AbortsOnImport, Absent, Doubles, Faulty, Hangs
from tests.sleepy_backend import Undecided


def test_every_named_backend_gets_a_row_and_those_of_the_default_install_work():
    found = {row.name: row for row in probe()}
    assert tuple(found) == names("backend")
    for name in ("onnxruntime", "openvino", "torch"):
        assert found[name].reason is None
        assert found[name].works
        assert found[name].version[:1].isdigit()
        assert float(found[name].details["largest_error"]) < 1e-4
    assert found["onnxruntime"].precisions == ("f32",)
    assert found["openvino"].precisions[0] == "f32"
    for name in ("cuda", "tensorrt"):
        assert found[name].works or "ONNX Runtime" in found[name].reason


def test_faults_are_rows_with_a_reason_in_the_order_asked_for():
    absent, aborts, wrong, named = probe([Absent, AbortsOnImport, Doubles, "no-such"])
    assert absent == Probe("absent", "its licence has run out: renew it.")
    assert "signal SIGABRT" in aborts.reason
    assert "off by" in wrong.reason
    assert wrong.version == ""
    assert "no backend is called 'no-such'" in named.reason
    assert not any(row.works for row in (absent, aborts, wrong, named))


def test_a_probe_that_hangs_is_a_row_when_its_time_is_up():
    (row,) = probe([Hangs], time_limit_s=3)
    assert row.reason == "hangs did not answer 'probe' within 3 s and was stopped."


def test_a_backend_that_fails_on_the_small_network_says_how():
    (row,) = probe([Faulty])
    assert row.reason == "it fails on a small network: 'x'."


def test_nothing_to_probe_is_no_rows():
    assert probe([]) == ()


def test_options_that_cannot_work_here_are_told_of_a_backend_that_works(monkeypatch):
    monkeypatch.setenv("PATH", "")
    torch, undecided = probe([Torch, Undecided])
    assert torch.works
    assert undecided.works
    reason = "torch.compile needs a C++ compiler, and none is installed: install g++, or use compiled=False."
    assert torch.refused == {"torch(compiled=True)": reason}
    assert undecided.refused == {"options of undecided": "they can't be told: no table of cores."}
