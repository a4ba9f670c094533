"""The table of kernels: who computes in which numbers, by what runtimes tell and by their answers; never by time."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from paring.backends import kernels as module
from paring.backends.base import Backend
from paring.backends.kernel_forms import FORMS, LAYERS, Form, Layer, form_of, said
from paring.backends.kernel_networks import extreme_sample, sample
from paring.backends.kernels import Kernel, flaw, kernels, measured_kernels, runs_natively, saturating
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.errors import BackendError
from paring.testing.techniques import check_settings
from tests.odd_kernels import Odd
from tests.worlds import Fast, Int, Uneven, explore, world

SMALL = (Layer("convolution", (2, 32, 5, 4), 32, 2), Layer("linear", (3, 64), 64, 2))


@pytest.mark.parametrize(
    ("form", "layer"),
    [
        pytest.param(form, each, id=f"{form.name}-{each.name}")
        for form in FORMS.values()
        for each in SMALL
        if said(form, each)
    ],
)
def test_a_network_s_answer_is_what_onnx_defines(form: Form, layer: Layer) -> None:
    made = sample(form, layer)
    # ONNX does not define MatMulNBits; its numbers are those of integers that are dequantized.
    defined = made if form.way != "MatMulNBits" else sample(replace(form, way="pairs", opset=25), layer)
    (right,) = ReferenceEvaluator(defined.model).run(None, defined.inputs)
    assert np.allclose(made.answer, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())
    assert made.answer.shape == (len(made.inputs["x"]), layer.channels, *layer.inputs[2:])


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
@pytest.mark.parametrize("form", [form for form in FORMS.values() if form.may_saturate], ids=lambda form: form.name)
def test_the_largest_sums_are_known(form: Form, layer: Layer) -> None:
    made = extreme_sample(form, layer)
    middle = (0, 0, 2, 2)[: made.answer.ndim]
    assert made.answer[middle] == pytest.approx(layer.channels * (9 if layer.kernel else 1))


def test_a_runtime_that_did_not_answer_in_time_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is no word against its kernels: the machine may be busy."""
    monkeypatch.setattr(module, "ROW_LIMIT_S", 1e-3)
    (row, *_) = kernels(OnnxRuntime, ("fp32",))
    assert row.verdict == module.NOT_MEASURED
    assert "did not answer 'kernel'" in row.reason


@pytest.mark.parametrize("backend", [OnnxRuntime, OpenVINO])
def test_runtimes_have_integer_kernels_for_static_int8(backend: type[Backend]) -> None:
    table = {
        (row.layer, row.form): row for row in kernels(backend, ("fp32", "int8", "int8, 4-bit weights", "nf4 weights"))
    }
    for name, layer in LAYERS.items():
        assert table[name, "fp32"] == Kernel(backend.name, name, "fp32", "float", 1.0, "", ("float",) * layer.depth)
        for form in ("int8", "int8, 4-bit weights"):
            assert table[name, form].executed == ("integers",) * layer.depth
            assert table[name, form].verdict == "integers"
            assert table[name, form].is_native
        folded = table[name, "nf4 weights"]
        assert (folded.verdict, folded.runs, folded.is_native) == ("dequantized", True, False)
    assert runs_natively(backend, "int8", "convolution")
    assert not runs_natively(backend, "nf4 weights", "linear")


@pytest.mark.parametrize("backend", [OnnxRuntime, OpenVINO])
def test_weights_stay_packed_where_they_are_all_that_is_read(backend: type[Backend]) -> None:
    for row in kernels(backend, ("MatMulNBits 4", "int4 weights")):
        assert row.verdict == ("dequantized" if row.layer == "convolution" else "packed")


def test_a_table_is_measured_once() -> None:
    assert kernels(OnnxRuntime, ("fp32",)) is kernels(OnnxRuntime, ("fp32",))


def test_what_onnxruntime_refuses_is_told_in_its_words() -> None:
    halves, floats = kernels(OnnxRuntime, ("bf16", "e2m1 weights"))[:2]
    assert (halves.verdict, halves.speedup, halves.runs) == ("refused", None, False)
    assert halves.reason == "network.onnx asks to be executed in bf16, which ONNX Runtime can't do: use openvino."
    assert floats.verdict == "refused"
    assert "DequantizeLinear" in floats.reason


@pytest.fixture(scope="module")
def odd() -> dict[str, Kernel]:
    rows = kernels(Odd, ("fp32", "int8", "int8, 4-bit inputs", "int8 dynamic", "MatMulNBits 4", "MatMulNBits 2"))
    return {f"{row.layer}: {row.form}": row for row in rows}


def test_a_kernel_that_answers_wrongly_is_wrong(odd: dict[str, Kernel]) -> None:
    off, empty = odd["linear: MatMulNBits 4"], odd["linear: MatMulNBits 2"]
    assert (off.verdict, off.reason) == ("wrong", "its answers are off by 50%.")
    assert (empty.verdict, empty.reason) == ("wrong", "it answers with shape (0, 512) where (64, 512) is right.")
    assert off.speedup is empty.speedup is None


def test_one_that_refuses_or_dies_leaves_the_other_rows(odd: dict[str, Kernel]) -> None:
    assert odd["convolution: int8 dynamic"].verdict == "refused"
    assert odd["convolution: int8 dynamic"].reason == "ConvInteger is unheard of."
    assert odd["linear: int8 dynamic"].runs
    assert odd["linear: int8, 4-bit inputs"].verdict == "refused"
    assert "signal SIGABRT" in odd["linear: int8, 4-bit inputs"].reason


def test_sums_that_are_cut_off_are_seen_in_their_numbers(odd: dict[str, Kernel]) -> None:
    assert odd["convolution: int8"].saturates
    assert odd["linear: int8"].saturates
    assert not odd["linear: int8 dynamic"].saturates
    static = ("int8", "int8, int8 inputs", "int8, float outputs")
    assert set(saturating(Odd)) == {(form, layer) for form in static for layer in LAYERS}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors add products in 32 bits")
def test_kernels_from_before_vnni_cut_sums_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = set(saturating(OpenVINO(threads=1)))
    assert {("int8", layer) for layer in LAYERS} <= found
    assert {("int8, int8 inputs", layer) for layer in LAYERS} <= found


def test_a_row_and_the_short_look_see_the_same_sums() -> None:
    forms = tuple(form.name for form in FORMS.values() if form.may_saturate)
    assert set(saturating(OpenVINO)) == {(row.form, row.layer) for row in kernels(OpenVINO, forms) if row.saturates}


@pytest.mark.parametrize(
    ("form", "executed", "speedup", "verdict"),
    [
        ("int8", (), 1.5, "integers"),
        ("int8", (), 1.1, "dequantized"),
        ("MatMulNBits 4", (), 3.0, "packed"),
        ("fp32", (), 1.0, "float"),
        ("int8", ("integers", "integers"), 0.2, "integers"),
        ("int8", ("integers", "float"), 3.0, "dequantized"),
        ("int8, 16-bit inputs", ("packed", "packed"), 1.5, "packed"),
    ],
)
def test_time_decides_where_the_runtime_does_not_tell(
    form: str, executed: tuple[str, ...], speedup: float, verdict: str
) -> None:
    assert module._verdict(form_of(form), executed, speedup) == verdict


def test_what_there_is_no_time_for_is_told() -> None:
    rows = list(measured_kernels(OnnxRuntime, ("fp32",), time_limit_s=0.0))
    assert {row.verdict for row in rows} == {"not measured"}
    assert "the time limit ended" in rows[0].reason
    assert not rows[0].runs


def test_a_form_that_is_not_known_is_told_with_close_ones() -> None:
    with pytest.raises(BackendError, match="no row 'int8 weight': choose int8 weights, "):
        list(measured_kernels(OnnxRuntime, ("int8 weight",)))


def test_the_alternative_is_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def table(backend: type[Backend], forms: tuple[str, ...]) -> tuple[Kernel, ...]:
        refused = Kernel(backend.name, "linear", *forms, "refused", reason="no such type.")
        runs = replace(refused, verdict="packed", reason="")
        return (refused, runs if (backend.name, forms) == ("openvino", ("e2m1 weights",)) else refused)

    monkeypatch.setattr(module, "kernels", table)
    assert flaw(OpenVINO, "e2m1 weights") == ""
    assert flaw(OnnxRuntime, "e2m1 weights") == (
        "onnxruntime does not run e2m1 weights on this machine (no such type): use openvino."
    )
    assert flaw(OpenVINO, "int2 weights") == (
        "openvino does not run int2 weights on this machine (no such type): no other backend does, and "
        "`paring doctor --kernels` tells what they run."
    )


@dataclass(frozen=True)
class Stored(Int):
    """Asks for what `fast` can't."""

    @property
    def forms(self) -> tuple[str, ...]:
        return ("fp32", "nf4 weights")


def test_the_contract_of_techniques_knows_the_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings(Stored())
    monkeypatch.setattr(Stored, "forms", ("int7",))
    with pytest.raises(AssertionError, match="asks for the form 'int7'"):
        check_settings(Stored())


@pytest.mark.parametrize("asked", [Stored, Stored()], ids=["class", "object"])
def test_the_search_tries_no_format_where_it_does_not_run(
    asked: type[Stored] | Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "fast does not run nf4 weights on this machine (no): use uneven."
    monkeypatch.setattr(
        "paring.tune.proposing.flaw", lambda kind, form: told if (kind, form) == (Fast, "nf4 weights") else ""
    )
    there = world(techniques=(asked,), backends=(Fast, Uneven), recipes=((Stored(), Int()),))
    explore(there)
    tried = {
        (candidate.backend.name, any(isinstance(t, Stored) for t in candidate.recipe)) for candidate in there.asked
    }
    assert tried == {("fast", False), ("uneven", False), ("uneven", True)}
    assert there.scene.not_tried["Stored -> Int on fast"] == told
    assert {reason for what, reason in there.scene.not_tried.items() if what.endswith("on fast")} == {told}


def test_what_asks_for_nothing_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paring.tune.proposing.flaw", lambda *_: pytest.fail("it was measured"))
    explore(world())
