"""Trainings by the names of papers, and with a format for each layer: what they learn, export and refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paring.artifact.packed import packed
from paring.backends.onnxruntime import OnnxRuntime
from paring.cli.chosen import chosen
from paring.errors import TechniqueError
from paring.graph.fake_quantized import quantized_layers
from paring.ops.formats import format_of
from paring.techniques import BitAllocation, QuantizationAwareTraining, StaticQuantization
from paring.train.estimators import INPUTS, WEIGHTS, TanhWeights, TwoScales, weight_quantizer
from paring.train.quantizers import LearnedWeights
from tests.quantization_nets import operators
from tests.structures import trained
from tests.test_fine_tune import job_of as digits_job
from tests.test_fine_tune import score, taught
from tests.test_quantization_aware_training import (
    Several,
    Twice,
    answer_of,
    answers,
    assert_same_answers,
    exported,
    job_of,
    normal,
    stored_weights,
    untrained,
)

SAME = QuantizationAwareTraining(ends="same", epochs=2)
OF_WEIGHTS = [(way, form) for way, forms in WEIGHTS.items() for form in forms]


def reasons(technique: QuantizationAwareTraining, model: nn.Module, inputs: Tensor) -> dict[str, str]:
    job = job_of(model, inputs)
    told = technique.coverage(model, technique.shrunk(model, job), job).layers
    return {layer.layer: layer.reason.removesuffix(", uint8 outputs") for layer in told}


@pytest.mark.parametrize(("way", "form"), OF_WEIGHTS)
def test_weights_are_integers_of_the_format_and_their_export_answers_the_same(
    way: Any, form: str, tmp_path: Path
) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    technique = replace(SAME, weights=form, estimator=way)
    after = technique.apply(model, job_of(model, inputs))
    for _, layer in quantized_layers(after):
        levels = {abs(level) for level in format_of(form).levels}
        assert len(layer.weight.detach().unique()) > 1
        for channel in layer.weight.detach().flatten(1):
            assert len(channel.abs().unique()) <= len(levels) + (way == "ttq")
    graph = exported(after, inputs)
    assert {integers.dtype for integers in stored_weights(graph).values()} == {np.dtype(np.int8)}
    assert len(stored_weights(graph)) == 4
    assert not {"Div", "Round", "BatchNormalization", "Where"} & set(operators(graph))
    assert_same_answers(after, graph, inputs, tmp_path)
    assert set(reasons(technique, model, inputs).values()) == {f"{form} weights ({way}), uint8 inputs"}


def paper_twn(weight: np.ndarray) -> np.ndarray:
    """Li et al. 2016, eq. 5 and 6, of each output channel."""
    taken = np.zeros_like(weight)
    for row, out in zip(weight.reshape(len(weight), -1), taken.reshape(len(weight), -1), strict=True):
        beyond = np.abs(row) > 0.7 * np.abs(row).mean()
        out[beyond] = np.sign(row[beyond]) * np.abs(row[beyond]).mean()
    return taken


def paper_dorefa(weight: np.ndarray) -> np.ndarray:
    """Zhou et al. 2016, eq. 9, for 3 bits; of each output channel the scale of least squares."""
    unit = np.tanh(weight) / (2 * np.abs(np.tanh(weight)).max()) + 0.5
    rows = (2 * np.rint(7 * unit) / 7 - 1).reshape(len(weight), -1)
    scale = (rows * weight.reshape(rows.shape)).sum(1) / np.square(rows).sum(1)
    return (rows * scale[:, None]).reshape(weight.shape)  # type: ignore[no-any-return]


def paper_ttq(weight: np.ndarray) -> np.ndarray:
    """Zhu et al. 2017, eq. 6, with the mean magnitude on either side of the thresholds for scales."""
    bound = 0.05 * np.abs(weight).max(tuple(range(1, weight.ndim)), keepdims=True)
    above, below = weight > bound, weight < -bound
    return above * weight[above].mean() + below * weight[below].mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("way", "form", "paper", "error"),
    [("twn", "ternary", paper_twn, 0.0), ("dorefa", "odd3", paper_dorefa, 0.0), ("ttq", "ternary", paper_ttq, 0.008)],
)
def test_training_begins_with_what_the_paper_has(
    way: Any, form: str, paper: Callable[[np.ndarray], np.ndarray], error: float
) -> None:
    """A TTQ's scales are multiples of a 64th of the larger one: half of that off."""
    weight = normal(6, 5, 3, 3)
    weight[0] += 0.3
    found = weight_quantizer(way, weight, format_of(form))(weight).detach().numpy()
    wanted = paper(weight.double().numpy())
    assert np.array_equal(np.sign(found), np.sign(wanted))
    np.testing.assert_allclose(found, wanted, atol=error * np.abs(wanted).max() + 1e-5)


@pytest.mark.parametrize(("way", "form"), [("ttq", "ternary"), ("dorefa", "odd2")])
def test_scales_learn_and_what_is_stored_is_what_was_seen(way: Any, form: str) -> None:
    model, inputs = trained(Several()), normal(64, 3, 8, 8)
    technique = replace(SAME, weights=form, estimator=way, epochs=6)
    after, before = technique.apply(model, job_of(model, inputs)), technique.student(model, job_of(model, inputs))
    for (name, layer), (_, first) in zip(quantized_layers(after), quantized_layers(before), strict=True):
        quantizer = first.weight_quantizer
        assert isinstance(quantizer, TwoScales | TanhWeights)
        start = quantizer.fixed(first.weight)[1].scale
        ratio = layer.weight_quantizer.scale / start  # type: ignore[union-attr,operator]
        # Behind all others a batch norm takes out again what the weights of a channel have in common.
        assert name != "side" or (ratio != 1).any()
        assert (ratio > 1.0101**-6).all()
        assert (ratio < 1.0101**6).all()
        seen = layer.weight_quantizer(layer.weight)  # type: ignore[operator]
        np.testing.assert_allclose(seen.detach().numpy(), layer.weight.detach().numpy(), rtol=1e-6)


def test_gradients_of_two_scales_are_sums_over_their_weights_and_slow() -> None:
    weight = normal(4, 6).requires_grad_()
    quantizer = TwoScales(weight)
    taken = quantizer(weight)
    of_weight, *of_steps = torch.autograd.grad(taken.sum(), [weight, *quantizer.steps])
    slowness = 24**-0.5
    assert float(of_steps[0]) == pytest.approx(float((taken > 0).sum()) * slowness)
    assert float(of_steps[1]) == pytest.approx(-float((taken < 0).sum()) * slowness)
    sizes = torch.where(taken == 0, 1.0, taken.detach().abs())
    np.testing.assert_allclose(of_weight.numpy(), sizes.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("way", "form"), OF_WEIGHTS)
def test_weights_that_are_all_zero_or_of_one_sign_are_no_fault(way: Any, form: str, tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    with torch.no_grad():
        model.wide.weight[2] = 0  # type: ignore[index,union-attr]
        model.side.weight.abs_()  # type: ignore[operator,union-attr]
        model.head.weight.zero_()  # type: ignore[operator,union-attr]
    after = replace(SAME, weights=form, estimator=way).apply(model, job_of(model, inputs))
    assert torch.isfinite(after(inputs)).all()
    assert_same_answers(after, exported(after, inputs), inputs, tmp_path)


def test_three_levels_take_their_true_width_on_disk_with_two_scales_too(tmp_path: Path) -> None:
    model, inputs = nn.Sequential(trained(nn.Linear(256, 256))), normal(64, 256)
    sizes = {}
    for way in ("learned", "ttq", "twn"):
        after = untrained(replace(SAME, weights="ternary", estimator=way), model, inputs)
        file = tmp_path / f"{way}.onnx"
        onnx.save(exported(after, inputs), file)
        sizes[way] = packed(file).stat().st_size
    assert max(sizes.values()) < 256 * 256 * 1.6 / 8 + 7_000


@pytest.mark.parametrize("form", INPUTS["dorefa"])
def test_inputs_between_0_and_the_largest_have_equal_steps_that_stay(form: str, tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    technique = QuantizationAwareTraining(epochs=2, activations=form, input_estimator="dorefa")
    after = technique.apply(model, job_of(model, inputs))
    before = untrained(technique, model, inputs)
    steps = [network.wide.input_quantizer.scale.item() for network in (before, after)]  # type: ignore[union-attr,operator]
    assert steps[0] == steps[1]
    seen = torch.relu(model.norm1(model.first(inputs)))  # type: ignore[operator]
    levels = 2 ** format_of(form).bits - 1
    assert 0 < steps[0] * levels <= seen.max().item() * 1.01
    read = after.wide.input_quantizer(seen)  # type: ignore[union-attr,operator]
    reach = steps[0] * levels
    wanted = torch.round((seen / reach).clamp(0, 1) * levels) / levels * reach
    np.testing.assert_allclose(read.detach().numpy(), wanted.detach().numpy(), atol=1e-5 * reach)
    assert_same_answers(after, exported(after, inputs), inputs, tmp_path)
    told = reasons(technique, model, inputs)
    assert told["wide"] == f"int4 weights, {form} inputs (dorefa)"
    assert told["first"] == "int8 weights, uint8 inputs"


class Places(nn.Module):
    """(rows, 3, 9, 9) -> (rows, 4): windows of several shapes and steps, then linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.stepping = nn.Conv2d(6, 6, (3, 5), stride=2, padding=(1, 2), bias=False)
        self.point = nn.Conv2d(6, 5, 1)
        self.wide = nn.Linear(5, 7)
        self.head = nn.Linear(7, 4, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(image)))
        x = self.point(torch.relu(self.stepping(x)))
        x = torch.tanh(self.wide(x.flatten(2).transpose(1, 2)))
        return self.head(x).mean(1)  # type: ignore[no-any-return]


def test_outputs_of_signs_have_the_size_of_what_lies_around_each_place(tmp_path: Path) -> None:
    """By the definition: K is the mean magnitude of the window, whose middle was taken away, over all channels."""
    model, inputs = trained(Places()), normal(16, 3, 9, 9)
    technique = replace(SAME, weights="binary", activations="binary", input_estimator="xnor")
    after = technique.apply(model, job_of(model, inputs))
    for name in ("first", "stepping", "point"):
        layer = after.get_submodule(name)
        read = normal(2, layer.weight.shape[1], 9, 9, seed=3)  # type: ignore[union-attr,index,arg-type]
        middle = float(layer.input_quantizer.middle)  # type: ignore[union-attr,arg-type]
        signs = torch.where(read >= middle, 1.0, -1.0)
        padded = functional.pad((read - middle).abs(), [each for size in layer.padding[::-1] for each in (size, size)])  # type: ignore[union-attr,index,operator]
        windows = functional.unfold(padded, layer.kernel_size, stride=layer.stride)  # type: ignore[arg-type]
        bare = functional.conv2d(signs, layer.weight, None, layer.stride, layer.padding)  # type: ignore[arg-type]
        scale = layer.input_quantizer.scale  # type: ignore[union-attr]
        bare = layer.output_quantizer(bare * scale) / scale  # type: ignore[operator]
        wanted = bare * windows.mean(1).reshape(2, 1, *bare.shape[2:])
        wanted = wanted if layer.bias is None else wanted + layer.bias.reshape(-1, 1, 1)  # type: ignore[union-attr,operator]
        with torch.no_grad():
            np.testing.assert_allclose(layer(read).numpy(), wanted.detach().numpy(), atol=1e-4)
    graph = exported(after, inputs)
    assert operators(graph)["AveragePool"] == 3
    assert len(stored_weights(graph)) == 5
    assert_same_answers(after, graph, inputs, tmp_path)
    assert set(reasons(technique, model, inputs).values()) == {"binary weights, binary inputs (xnor)"}
    whole = StaticQuantization("mse").apply(graph, job_of(model, inputs))
    error = answers(OnnxRuntime(), whole, inputs, tmp_path) - answer_of(after, inputs)
    assert np.sqrt(np.square(error).mean()) < 0.15 * answer_of(after, inputs).std()


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Conv2d(3, 6, 3, groups=3), "is a convolution of groups, or not of images"),
        (nn.Conv2d(3, 6, 3, dilation=2), "has a dilation, or a padding other than zeros for at most half its window"),
        (nn.Conv2d(3, 6, 3, padding=2), "has a dilation, or a padding other than zeros"),
        (nn.Conv2d(3, 6, 3, padding="same"), "has a dilation, or a padding other than zeros"),
        (nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), "has a dilation, or a padding other than zeros"),
    ],
)
def test_windows_without_a_size_are_told(layer: nn.Module, told: str) -> None:
    model, inputs = nn.Sequential(nn.Identity(), trained(layer)).eval(), normal(4, 3, 8, 8)
    with pytest.raises(TechniqueError, match=rf"input_estimator='xnor': layer '1' {told}.*: exclude it, or leave"):
        untrained(replace(SAME, activations="binary", input_estimator="xnor"), model, inputs)


def test_inputs_of_both_signs_are_not_cut_off_unsaid() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    told = (
        r"input_estimator='dorefa': layer 'first' reads values down to -\d.*, of which this keeps none below 0: exclude"
    )
    with pytest.raises(TechniqueError, match=told):
        untrained(replace(SAME, activations="uint4", input_estimator="dorefa"), model, inputs)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"estimator": "twn"}, "estimator='twn' does not train weights='int4': choose ternary."),
        ({"estimator": "ttq", "weights": "binary"}, "estimator='ttq' does not train weights='binary': choose ternary."),
        ({"estimator": "dorefa"}, "weights='int4': choose odd2, odd3, odd4, odd5 or odd6."),
        ({"estimator": "ternary"}, "estimator='ternary' is unknown: choose one of learned, twn, ttq, dorefa."),
        ({"input_estimator": "xnor"}, "input_estimator='xnor' does not train activations='uint8': choose binary."),
        ({"input_estimator": "dorefa", "activations": "float"}, "does not train activations='float': choose uint1, "),
        ({"input_estimator": "dorefa", "activations": "int4"}, "does not train activations='int4': choose uint1, "),
        (
            {"estimator": "ttq", "weights": "ternary", "progressive": True},
            "progressive=True is for learned scales, not for 'ttq': leave one out.",
        ),
        (
            {"input_estimator": "xnor", "activations": "binary", "progressive": True},
            "progressive=True is for learned scales, not for 'xnor': leave one out.",
        ),
        ({"formats": (("wide", "uint4"),)}, "formats='uint4' is no format to train for: choose for example int2 to"),
        ({"formats": (("wide", "int33"),)}, "formats='int33' is unknown: choose int3"),
        ({"activations": "uint44"}, "activations='uint44' is unknown: choose uint4"),
        ({"activations": "floats"}, "activations='floats' is unknown: choose float"),
        ({"formats": (("wide", "int3"), ("wide", "int4"))}, "formats names 'wide' twice, with int3 and int4: give it"),
        ({"formats": (("wide", "int3"),), "exclude": ("wide",)}, "'wide' is named by formats and by exclude: take it"),
        ({"formats": BitAllocation(choices=("int8", "uint4"))}, "choices='uint4' is no format to train for: choose"),
        ({"formats": (("wide", 3),)}, "formats=.* must be a tuple"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(TechniqueError, match=told):
        QuantizationAwareTraining(**settings)


def test_each_layer_has_the_format_that_is_named_for_it(tmp_path: Path) -> None:
    """At the ends too, and the others have what the settings say."""
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    formats = (("first", "int4"), ("wide", "ternary"))
    technique = QuantizationAwareTraining(epochs=1, weights="int3", activations="uint4", formats=formats)
    after = technique.apply(model, job_of(model, inputs))
    assert reasons(technique, model, inputs) == {
        "first": "int4 weights, uint8 inputs",
        "wide": "ternary weights, uint4 inputs",
        "side": "int3 weights, uint4 inputs",
        "head": "int8 weights, uint8 inputs",
    }
    for name, most in (("first", 16), ("wide", 3), ("side", 8)):
        layer = after.get_submodule(name)
        integers = layer.weight / layer.weight_quantizer.scale.reshape(-1, 1, 1, 1)  # type: ignore[union-attr,operator]
        assert len(integers.round().unique()) <= most
    graph = exported(after, inputs)
    assert_same_answers(after, graph, inputs, tmp_path)
    behind = StaticQuantization().apply(graph, job_of(model, inputs))
    for name, integers in stored_weights(graph).items():
        assert np.array_equal(stored_weights(behind)[name], integers)
    kept = replace(technique, ends="float")
    assert reasons(kept, model, inputs)["first"] == "int4 weights, uint4 inputs"
    assert reasons(kept, model, inputs)["head"] == "Linear stays float"


def test_a_way_is_for_the_layers_whose_format_it_trains() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    technique = replace(SAME, weights="ternary", estimator="ttq", formats=(("wide", "int3"), ("side", "ternary")))
    student = technique.student(model, job_of(model, inputs))
    assert isinstance(student.wide.weight_quantizer, LearnedWeights)  # type: ignore[union-attr]
    assert isinstance(student.side.weight_quantizer, TwoScales)  # type: ignore[union-attr]
    assert reasons(technique, model, inputs)["wide"] == "int3 weights, uint8 inputs"


def test_names_that_are_no_layers_are_told() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    job = job_of(model, inputs)
    misspelt = QuantizationAwareTraining(formats=(("wid", "int3"),))
    told = "formats names 'wid', which the network does not have; the closest are wide"
    with pytest.raises(TechniqueError, match=told):
        misspelt.check_fits(model, job.task)
    with pytest.raises(TechniqueError, match=told):
        misspelt.shrunk(model, job)
    norm = QuantizationAwareTraining(formats=(("norm1", "int3"),))
    with pytest.raises(TechniqueError, match="formats names 'norm1', which is not quantized; the closest that are: "):
        norm.shrunk(model, job)


def test_what_an_allocation_chose_can_be_typed_and_an_allocation_can_choose_itself() -> None:
    model, inputs = trained(Several()), normal(64, 3, 8, 8)
    said: list[str] = []
    job = replace(job_of(model, inputs), say=said.append)
    allocation = BitAllocation(mean_bits=3.0, choices=("int8", "int4", "ternary"))
    by_itself = QuantizationAwareTraining(epochs=2, formats=allocation)
    found = allocation.chosen(exported(model, inputs), job)
    assert len({name for _, name in found.formats}) > 1
    assert said == [f"formats={found.formats}"]
    (typed,) = chosen("technique", f"QuantizationAwareTraining(epochs=2, {said[0]})") or ()
    assert typed == QuantizationAwareTraining(epochs=2, formats=found.formats)
    assert reasons(by_itself, model, inputs) == reasons(typed, model, inputs)
    assert chosen("technique", str(by_itself)) == [by_itself]
    one, other = (technique.apply(model, job) for technique in (by_itself, typed))
    assert np.array_equal(answer_of(one, inputs), answer_of(other, inputs))


def test_an_allocation_divides_the_bits_of_the_layers_that_are_trained() -> None:
    """Others count neither as layers nor as bits; and who is left in float for its time stays so."""
    model, inputs = trained(Several()), normal(64, 3, 8, 8)
    allocation = BitAllocation(mean_bits=4.0, choices=("int8", "int4", "int2"))
    technique = QuantizationAwareTraining(formats=allocation, ends="float", exclude=("side",))
    assert reasons(technique, model, inputs) == {
        "first": "Conv2d stays float",
        "wide": "int4 weights, uint8 inputs",
        "side": "excluded by the settings",
        "head": "Linear stays float",
    }


def test_layers_that_an_allocation_leaves_in_float_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_formats = replace(
        StaticQuantization(), formats=(("wide", "int3"), ("first", "int8")), exclude=("side", "head")
    )
    monkeypatch.setattr(BitAllocation, "chosen", lambda *_: chosen_formats)
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    told = reasons(QuantizationAwareTraining(formats=BitAllocation(latency_share=0.5)), model, inputs)
    assert told == {
        "first": "int8 weights, uint8 inputs",
        "wide": "int3 weights, uint8 inputs",
        "side": "Conv2d stays float",
        "head": "Linear stays float",
    }


def test_layers_that_share_a_weight_share_what_an_allocation_chose() -> None:
    model, inputs = trained(Twice()), normal(32, 6)
    technique = QuantizationAwareTraining(weights="int8", formats=BitAllocation(mean_bits=3.0, sensitivity="weights"))
    told = reasons(technique, model, inputs)
    assert told["one"] == told["other"] != "int8 weights, uint8 inputs"


def test_an_allocation_that_holds_no_limit_says_so() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    technique = QuantizationAwareTraining(formats=BitAllocation(mean_bits=1.5))
    with pytest.raises(TechniqueError, match=r"mean_bits=1.5 can't be held: the least of choices has 2 bits"):
        untrained(technique, model, inputs)


@pytest.mark.parametrize(
    ("technique", "lost"),
    [
        (QuantizationAwareTraining(weights="ternary", activations="uint4", estimator="twn"), 0.03),
        (QuantizationAwareTraining(weights="ternary", activations="uint4", estimator="ttq"), 0.03),
        (QuantizationAwareTraining(weights="odd2", activations="uint2", estimator="dorefa"), 0.03),
        (QuantizationAwareTraining(activations="uint2", input_estimator="dorefa"), 0.03),
        (QuantizationAwareTraining(weights="binary", activations="binary", input_estimator="xnor"), 0.05),
        (QuantizationAwareTraining(formats=BitAllocation(mean_bits=2.0, choices=("int8", "ternary", "binary"))), 0.03),
    ],
    ids=str,
)
def test_a_network_that_knows_the_digits_knows_them_still(technique: QuantizationAwareTraining, lost: float) -> None:
    after = replace(technique, epochs=8).apply(taught(), digits_job())
    assert score(after) >= score(taught()) - lost
