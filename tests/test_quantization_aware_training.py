"""QuantizationAwareTraining: networks learn with few values, and their exports compute the same in integers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from paring.backends.base import Backend
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.backends.torch import Torch
from paring.backends.torch_archive import write_archive
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.fake_quantized import FixedInputs, FixedWeights, quantized_layers, quantized_outputs
from paring.graph.onnx_graph import Graph, attribute
from paring.ops.formats import FORMATS, format_of
from paring.techniques import (
    FineTune,
    PruneChannels,
    PruneWeights,
    QuantizationAwareTraining,
    RemoveBlocks,
    StaticQuantization,
)
from paring.techniques.base import ModuleTechnique
from paring.techniques.ways import trainable
from paring.train.constraint import HeldZeros
from paring.train.loop import fit_
from paring.train.quantizers import HeldSteps, LearnedInputs, LearnedWeights
from paring.train.settings import Training
from paring.train.weights import save_weights, with_weights
from paring.types import Batch, Task
from tests.quantization_nets import metadata, operators, run
from tests.structures import trained
from tests.test_fine_tune import Net, score, taught
from tests.test_fine_tune import job_of as digits_job

RUNTIMES: tuple[Backend, ...] = (OnnxRuntime(), OpenVINO())
WEIGHTS = tuple(name for name, form in FORMATS.items() if trainable(form, "weights"))
INPUTS = tuple(name for name, form in FORMATS.items() if trainable(form, "activations"))
SAME = QuantizationAwareTraining(ends="same", epochs=1)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def job_of(model: nn.Module, inputs: Any) -> Job:
    batches: list[Batch] = [(inputs, None)]
    return Job.of(Task(model, batches, train=batches), threads=1)


def untrained(technique: QuantizationAwareTraining, model: nn.Module, inputs: Any) -> nn.Module:
    return technique.shrunk(model, job_of(model, inputs))


def exported(model: nn.Module, inputs: Any) -> onnx.ModelProto:
    return export_onnx(export_program(model, inputs), signature_of(model, inputs))


def answers(backend: Backend, graph: onnx.ModelProto, inputs: Tensor, folder: Path) -> np.ndarray:
    onnx.save(graph, folder / "network.onnx")
    (answer,) = backend.load(folder / "network.onnx", threads=1).run({"input": inputs.numpy()}).values()
    return answer


def answer_of(model: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model(inputs).numpy()  # type: ignore[no-any-return]


def assert_same_answers(model: nn.Module, graph: onnx.ModelProto, inputs: Tensor, folder: Path) -> None:
    """Up to the rounding of float32 as the graph has it, since random numbers hardly ever lie between two levels.

    The integer kernels of ONNX Runtime also round biases, to units far below a level.
    """
    wanted = answer_of(model, inputs)
    close = 1e-4 * np.abs(wanted).max()  # Of a layer of zeros the bias is rounded to other units.
    np.testing.assert_allclose(run(graph, inputs.numpy(), optimized=False)[0], wanted, rtol=0, atol=close)
    error = answers(OpenVINO(), graph, inputs, folder) - wanted
    assert (np.abs(error) > close).mean() < 0.1  # What a convolution gives in a row or two may lie between two levels.
    assert np.sqrt(np.square(error).mean()) < 0.01 * wanted.std()
    error = answers(OnnxRuntime(), graph, inputs, folder) - wanted
    assert np.sqrt(np.square(error).mean()) < 0.05 * wanted.std()


def stored_weights(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The integers of each layer that has some, outputs first, by the layer's name."""
    editable, found = Graph(graph), {}
    for node in editable.nodes:
        read = editable.producers.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        integers = editable.constant(read.input[0]) if read is not None else None
        if read is not None and integers is not None:
            assert read.op_type == "DequantizeLinear"
            found[node.name] = np.moveaxis(integers, attribute(read, "axis", 1), 0)
    return found


class Several(nn.Module):
    """(rows, 3, 8, 8) -> (rows, 5): batch norms, some of whose factors are negative, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.side = nn.Conv2d(8, 8, 1)
        self.head, self.norm3 = nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(image)))
        x = torch.relu(self.norm2(self.wide(x)) + self.side(x))
        return self.norm3(self.head(x.mean((2, 3))))  # type: ignore[no-any-return]


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 6)),
    "stride, dilation, no bias": (nn.Conv2d(3, 4, 3, 2, 2, 2, bias=False), (3, 9, 9)),
    "groups": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (6, 6, 6)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 6, 6)),
    "unequal padding": (nn.Conv2d(3, 4, (3, 5), padding=(0, 1)), (3, 6, 6)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 6)),
    "one dimension": (nn.Conv1d(3, 4, 3, padding=1), (3, 9)),
    "three dimensions": (nn.Conv3d(2, 4, 3, padding=1), (2, 4, 5, 6)),
    "linear": (nn.Linear(7, 5), (7,)),
    "linear without bias": (nn.Linear(7, 5, bias=False), (7,)),
    "linear of sequences": (nn.Linear(7, 5), (4, 7)),
    "square linear of sequences": (nn.Linear(6, 6), (6, 6)),
}


FORMS = ("uint8", "uint4", "int5", "binary", "float")


@pytest.mark.parametrize(
    ("name", "activations"),
    [
        *((name, FORMS[at % 2]) for at, name in enumerate(LAYERS)),
        *(("convolution", form) for form in FORMS[1:]),
        *(("linear of sequences", form) for form in FORMS[1:]),
    ],
)
def test_every_layer_computes_the_same_in_integers(name: str, activations: str, tmp_path: Path) -> None:
    """Values of both signs: a zero point that is not 0, with which the borders have to be padded."""
    model, shape = LAYERS[name]
    model = nn.Sequential(trained(copy.deepcopy(model)))
    inputs = normal(16, *shape) + 0.3
    after = untrained(replace(SAME, activations=activations), model, inputs)
    graph = exported(after, inputs)
    assert not {"Div", "Round", "Transpose", "Cast"} & set(operators(graph))
    outputs = activations != "float" and not isinstance(model[0], nn.Linear)
    assert operators(graph)["QuantizeLinear"] == (activations != "float") + outputs
    assert operators(graph)["Clip"] == (activations in ("uint4", "int5"))
    (integers,) = stored_weights(graph).values()
    assert integers.dtype == np.int8
    assert len(integers) == len(model[0].weight)  # type: ignore[arg-type]
    assert_same_answers(after, graph, inputs, tmp_path)


def test_the_values_are_those_of_the_formats() -> None:
    """By NumPy, from the scales alone."""
    model, inputs = nn.Sequential(trained(nn.Linear(7, 5))), normal(64, 7) + 0.3
    after = untrained(replace(SAME, activations="uint4"), model, inputs)
    ((_, layer),) = quantized_layers(after)
    scale, step = layer.weight_quantizer.scale.numpy()[:, None], float(layer.input_quantizer.scale)  # type: ignore[union-attr,operator]
    zero = float(layer.input_quantizer.zero_point)  # type: ignore[arg-type]
    form = format_of("int4")
    weight = form.decode(form.encode(model[0].weight.detach().numpy() / scale)) * scale  # type: ignore[operator,union-attr]
    read = (np.clip(np.rint(inputs.numpy() / step) + zero, 0, 15) - zero) * step
    assert 0 < zero < 15
    wanted = read @ weight.T + layer.bias.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(answer_of(after, inputs), wanted, atol=1e-5)


@pytest.mark.parametrize("backend", RUNTIMES, ids=str)
def test_what_lies_right_between_two_levels_goes_to_one_of_them(backend: Backend, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))  # type: ignore[operator,union-attr]
    inputs = normal(16, 4)
    after = untrained(replace(SAME, weights="ternary", activations="uint4"), model, inputs)
    step = float(after[0].input_quantizer.scale)  # type: ignore[union-attr,arg-type,index]
    between = (torch.arange(-20, 20).float() + 0.5)[:, None].repeat(1, 4) * step
    found = answers(backend, exported(after, inputs), between, tmp_path)
    assert np.abs(found - answer_of(after, between)).max() <= step * 1.001


class Beside(nn.Module):
    """Networks that read one input, their answers side by side: exported at once."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x) for network in self.networks], 1)


def small(seed: int) -> nn.Module:
    """(rows, 3, 4, 4) -> (rows, 3)."""
    convolution = nn.Conv2d(3, 6, 3, bias=False)
    return trained(nn.Sequential(convolution, nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)), seed)


def test_every_format_of_weights_trains_and_is_stored_as_its_levels(tmp_path: Path) -> None:
    inputs = normal(32, 3, 4, 4)
    every = [
        replace(SAME, weights=name).apply(small(seed), job_of(small(seed), inputs)) for seed, name in enumerate(WEIGHTS)
    ]
    assert {"int2", "int8", "binary", "ternary", "odd2", "pow4", "apot4", "apot5"} <= set(WEIGHTS)
    for name, network in zip(WEIGHTS, every, strict=True):
        for _, layer in quantized_layers(network):
            scale = layer.weight_quantizer.scale.reshape(-1, *[1] * (layer.weight.ndim - 1))  # type: ignore[union-attr,operator]
            found = (layer.weight / scale).unique()
            assert all((torch.tensor(format_of(name).levels) - level).abs().min() < 1e-4 for level in found), name
    graph = exported(Beside(every), inputs)
    stored = stored_weights(graph)
    assert len(stored) == 2 * len(WEIGHTS)
    for at, name in enumerate(WEIGHTS):
        for integers in (stored[f"networks.{at}.0"], stored[f"networks.{at}.4"]):
            largest = max(map(abs, format_of(name).levels))
            factor = 2 ** int(np.log2(max(1, 64 // min(largest, 127))))
            levels = {factor * level for level in format_of(name).levels}
            for channel in integers.reshape(len(integers), -1):
                assert set(channel.tolist()) <= levels or set((-channel).tolist()) <= levels, name
    assert not {"Div", "Round", "BatchNormalization", "Where"} & set(operators(graph))
    assert_same_answers(Beside(every), graph, inputs, tmp_path)


def test_every_format_of_inputs_trains_and_is_what_runtimes_round_to(tmp_path: Path) -> None:
    inputs = normal(32, 3, 4, 4)
    every = [
        replace(SAME, activations=name).apply(small(seed), job_of(small(seed), inputs))
        for seed, name in enumerate(INPUTS)
    ]
    assert {"uint1", "uint8", "int2", "int8", "binary"} <= set(INPUTS)
    graph = exported(Beside(every), inputs)
    clipped = sum(format_of(name).bits < 8 and name != "binary" for name in INPUTS)
    assert operators(graph)["QuantizeLinear"] == 3 * len(INPUTS)  # The convolutions' outputs, too.
    assert operators(graph)["Clip"] == 2 * clipped
    assert metadata(graph)["paring.learned"]
    assert_same_answers(Beside(every), graph, inputs, tmp_path)


def test_layers_that_read_one_tensor_read_one_quantization_of_it(tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    after = QuantizationAwareTraining(epochs=2, activations="uint4", ends="same").apply(model, job_of(model, inputs))
    graph = exported(after, inputs)
    assert operators(graph)["QuantizeLinear"] == 3 + len(list(quantized_outputs(after))) == 5
    assert operators(graph)["Clip"] == 3
    assert not {"Div", "Round", "BatchNormalization"} & set(operators(graph))
    assert_same_answers(after, graph, inputs, tmp_path)


def test_a_negative_factor_of_a_batch_norm_turns_signs_and_a_factor_of_zero_ends_the_channel(tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    with torch.no_grad():
        model.norm1.weight.copy_(torch.tensor([1.0, -1, 0, 0.5, -0.5, 1e-45, 2, -2]))  # type: ignore[operator,union-attr]
    after = untrained(QuantizationAwareTraining(weights="int4", ends="same"), model, inputs)
    graph = exported(after, inputs)
    scale = after.first.weight_quantizer.scale.reshape(-1, 1, 1, 1)  # type: ignore[union-attr,operator]
    integers = torch.round(after.first.weight.detach() / scale)  # type: ignore[union-attr,operator]
    signs = torch.tensor([1.0, -1, 0, 1, -1, 0, 1, -1]).reshape(-1, 1, 1, 1)
    assert np.array_equal(stored_weights(graph)["first"], (8 * integers * signs).numpy().astype(np.int8))
    assert_same_answers(after, graph, inputs, tmp_path)


def test_static_quantization_behind_it_keeps_the_integers_and_runtimes_compute_in_them(tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(64, 3, 8, 8)
    after = untrained(QuantizationAwareTraining(weights="int4", ends="same"), model, inputs)
    graph = exported(after, inputs)
    whole = StaticQuantization().apply(graph, job_of(model, inputs))
    before, found = stored_weights(graph), stored_weights(whole)
    assert found.keys() == before.keys()
    for name, integers in before.items():
        assert np.array_equal(found[name], integers), name
    wanted = answer_of(after, inputs)
    for backend in RUNTIMES:
        error = answers(backend, whole, inputs, tmp_path) - wanted
        assert np.sqrt(np.square(error).mean()) < 0.03 * wanted.std()


class Twice(nn.Module):
    """One layer that is called twice, the second time by the name of its argument; and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(input=torch.relu(self.again(x)))
        return torch.cat([self.one(x), self.other(x), self.other(x * 2)], 1)


def test_layers_called_twice_and_weights_and_inputs_that_are_shared(tmp_path: Path) -> None:
    model, inputs = trained(Twice()), normal(16, 6)
    after = QuantizationAwareTraining(epochs=3, ends="same").apply(model, job_of(model, inputs))
    assert after.one.weight is after.other.weight  # type: ignore[union-attr]
    assert after.one.weight_quantizer is after.other.weight_quantizer  # type: ignore[union-attr]
    assert after.one.input_quantizer is after.other.input_quantizer  # type: ignore[union-attr]
    graph = exported(after, inputs)
    stored = [tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert [list(tensor.dims) for tensor in stored if len(tensor.dims) == 2] == [[6, 6]] * 2
    # What is read, and what both calls of the first layer give: the second is read in floating point too.
    assert operators(graph)["QuantizeLinear"] == 4 + 2
    assert_same_answers(after, graph, inputs, tmp_path)
    assert OnnxRuntime().executed(tmp_path / "network.onnx") == ("integers",) * 5


def test_layers_at_the_ends_read_their_own_format_of_a_shared_input(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.body(x))
            return torch.cat([self.one(x), self.other(x)], 1)

    model, inputs = trained(Heads()), normal(16, 6)
    technique = QuantizationAwareTraining(activations="uint4", ends="int8")
    after = untrained(technique, model, inputs)
    layers = technique.coverage(model, after, job_of(model, inputs)).layers
    assert [layer.reason for layer in layers] == [
        "int8 weights, uint8 inputs, uint8 outputs",  # Two formats read it through a rectifier.
        "int4 weights, uint4 inputs",
        "int8 weights, uint8 inputs",
    ]
    assert [layer.input_quantizer.high for _, layer in quantized_layers(after)] == [255, 15, 255]
    assert_same_answers(after, exported(after, inputs), inputs, tmp_path)
    assert OnnxRuntime().executed(tmp_path / "network.onnx") == ("integers",) * 3


def test_a_table_of_embeddings_that_shares_a_weight_stays_as_it_was_trained(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens))  # type: ignore[no-any-return]

    model, tokens = trained(Tied()), torch.arange(20).reshape(10, 2)
    after = untrained(replace(SAME, weights="ternary"), model, tokens)
    assert torch.equal(after.table.weight, model.table.weight)  # type: ignore[union-attr,arg-type]
    assert len(after.head.weight[0].unique()) <= 3  # type: ignore[union-attr,index]
    assert_same_answers(after, exported(after, tokens), tokens, tmp_path)


def test_a_transformer_computes_as_it_was_trained_when_it_only_answers(tmp_path: Path) -> None:
    """torch has one operator for a transformer layer that only answers, which reads weights past their modules."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
    model = trained(nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)))
    inputs = normal(8, 5, 8)
    technique = QuantizationAwareTraining(activations="uint3", ends="same")
    after = untrained(technique, model, inputs)
    told = {layer.layer: layer for layer in technique.coverage(model, after, job_of(model, inputs)).layers}
    assert told["1.layers.0.linear1"].changed
    assert not told["1.layers.0.self_attn.out_proj"].changed
    assert told["1.layers.0.self_attn.out_proj"].reason == "its weights are multiplied by another module, or by none"
    assert told["1.layers.0.self_attn"].reason == "MultiheadAttention stays float"
    assert_same_answers(after, exported(after, inputs), inputs, tmp_path)


def test_ends_may_be_float_and_layers_excluded() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    technique = QuantizationAwareTraining(ends="float", exclude=("side",))
    after = untrained(technique, model, inputs)
    told = {layer.layer: layer.reason for layer in technique.coverage(model, after, job_of(model, inputs)).layers}
    assert told == {
        "first": "Conv2d stays float",
        "wide": "int4 weights, uint8 inputs, uint8 outputs",
        "side": "excluded by the settings",
        "head": "Linear stays float",
    }
    assert [name for name, _ in quantized_layers(after)] == ["wide"]
    every = replace(technique, exclude=("side", "wide"))
    with pytest.raises(TechniqueError, match="every convolution and linear layer is to stay float: exclude fewer"):
        untrained(every, model, inputs)
    at_ends = untrained(QuantizationAwareTraining(exclude=("first",)), model, inputs)
    levels = {name: len(layer.weight[0].unique()) for name, layer in quantized_layers(at_ends)}
    assert levels["wide"] <= 16  # It is no end of the network for being the first that is left.


def test_it_is_not_applied_twice_and_a_search_does_not_go_on_with_it() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    once = untrained(QuantizationAwareTraining(), model, inputs)
    with pytest.raises(TechniqueError, match="the network is quantized already"):
        QuantizationAwareTraining(epochs=1).apply(once, job_of(model, inputs))
    assert not QuantizationAwareTraining.goes_on
    assert QuantizationAwareTraining.prepares == (StaticQuantization,)


def test_names_that_are_not_there_are_told() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    technique = QuantizationAwareTraining(exclude=("wid",))
    told = r"exclude names 'wid', which the network does not have; the closest are wide"
    with pytest.raises(TechniqueError, match=told):
        technique.check_fits(model, job_of(model, inputs).task)
    with pytest.raises(TechniqueError, match=told):
        untrained(technique, model, inputs)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("weights", "uint4"),
        ("weights", "int16"),
        ("weights", "nf4"),
        ("weights", "e4m3"),
        ("activations", "uint16"),
        ("activations", "odd2"),
        ("activations", "pow3"),
    ],
)
def test_formats_that_can_not_be_trained_are_told(setting: str, value: str) -> None:
    with pytest.raises(TechniqueError, match=rf"{setting}='{value}' is no format to train for: choose for example"):
        QuantizationAwareTraining(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float) -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    with torch.no_grad():
        model.wide.weight[0, 0, 0, 0] = value  # type: ignore[index,union-attr]
    with pytest.raises(TechniqueError, match=r"weight 'wide.weight' holds NaN or infinity: check the network"):
        untrained(SAME, model, inputs)


def test_inputs_that_are_no_numbers_are_refused_by_the_layer_that_reads_them() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    with torch.no_grad():
        model.norm1.weight[0] = torch.inf  # type: ignore[index,union-attr]
    with pytest.raises(TechniqueError, match=r"layer 'wide' reads NaN or infinity on the calibration rows"):
        untrained(SAME, model, inputs)


def test_a_network_without_layers_is_told() -> None:
    model, inputs = nn.Sequential(nn.BatchNorm1d(6)).eval(), normal(8, 6)
    with pytest.raises(TechniqueError, match="no convolution or linear layer runs as a module"):
        untrained(SAME, model, inputs)
    with pytest.raises(TechniqueError, match="no convolution or linear layer runs as a module"):
        next(QuantizationAwareTraining.variants(model, job_of(model, inputs)))


def test_zeros_stay_zero_and_channels_without_weights_too(tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(16, 3, 8, 8)
    with torch.no_grad():
        model.wide.weight[:, ::2] = 0  # type: ignore[index,union-attr]
        model.wide.weight[3] = 0  # type: ignore[index,union-attr]
    zeros = model.wide.weight == 0  # type: ignore[union-attr]
    every = {
        name: QuantizationAwareTraining(epochs=3, weights=name, ends="same").apply(model, job_of(model, inputs))
        for name in ("int4", "ternary", "pow3", "binary")
    }
    for name, after in every.items():
        assert name == "binary" or not after.wide.weight[zeros].any()  # type: ignore[union-attr,index]
        assert torch.isfinite(after(inputs)).all()
    beside = Beside(list(every.values()))
    assert_same_answers(beside, exported(beside, inputs), inputs, tmp_path)


def test_inputs_that_are_always_the_same_are_quantized_all_the_same(tmp_path: Path) -> None:
    model = nn.Sequential(trained(nn.Linear(6, 6)), nn.Threshold(100.0, 0.0), trained(nn.Linear(6, 3))).eval()
    inputs = normal(16, 6)
    names = ("uint8", "int4", "binary")
    after = Beside([untrained(replace(SAME, activations=name), model, inputs) for name in names])
    graph = exported(after, inputs)
    assert operators(graph)["QuantizeLinear"] == 2 * len(names)
    assert_same_answers(after, graph, inputs, tmp_path)


def test_frozen_layers_stay_as_they_are_but_for_their_levels() -> None:
    model, inputs = trained(Several()), normal(16, 3, 8, 8)
    model.wide.weight.requires_grad_(False)  # type: ignore[union-attr]
    after = SAME.apply(model, job_of(model, inputs))
    assert not after.wide.weight.requires_grad  # type: ignore[union-attr]
    scale = after.wide.weight_quantizer.scale.reshape(-1, 1, 1, 1)  # type: ignore[union-attr,operator]
    form = format_of("int4")
    wanted = form.decode(form.encode((model.wide.weight / scale).numpy())) * scale.numpy()  # type: ignore[union-attr,operator]
    np.testing.assert_allclose(after.wide.weight.detach().numpy(), wanted, rtol=1e-6)  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_networks_in_other_types_are_quantized_too(kind: torch.dtype) -> None:
    model, inputs = trained(Several()).to(kind), normal(16, 3, 8, 8).to(kind)
    after = untrained(SAME, model, inputs)
    again = untrained(SAME, model.float(), inputs.float())
    with torch.inference_mode():
        found, wanted = after(inputs).float(), again(inputs.float())
    assert after(inputs).dtype == kind
    assert (found - wanted).abs().mean() < 0.1 * wanted.std()


def test_a_copy_and_a_resumed_run_are_the_same_network(tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    technique = QuantizationAwareTraining(epochs=2, weights="int3", activations="uint4")
    job = job_of(model, inputs)
    after = technique.apply(model, job)
    save_weights(after, tmp_path / "weights.npz")
    again = with_weights(technique.shrunk(model, job), tmp_path / "weights.npz")
    assert again is not None
    assert np.array_equal(answer_of(copy.deepcopy(after), inputs), answer_of(after, inputs))
    assert np.array_equal(answer_of(again, inputs), answer_of(after, inputs))
    graphs = [exported(each, inputs).SerializeToString(deterministic=True) for each in (again, after)]
    assert graphs[0] == graphs[1]


def test_the_archive_for_torch_answers_the_same(tmp_path: Path) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    for activations in ("uint4", "binary"):
        after = untrained(QuantizationAwareTraining(activations=activations), model, inputs)
        write_archive(export_program(after, inputs), tmp_path / "network.pt2")
        (found,) = Torch().load(tmp_path / "network.pt2", threads=1).run({"input": inputs.numpy()}).values()
        np.testing.assert_allclose(found, answer_of(after, inputs), atol=1e-5)


@pytest.mark.parametrize(
    "technique",
    [SAME, FineTune(epochs=1), PruneWeights(0.5), PruneChannels(0.5), RemoveBlocks()],
    ids=lambda technique: technique.name,
)
def test_what_would_break_its_integers_is_refused(technique: ModuleTechnique) -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    after = untrained(SAME, model, inputs)
    with pytest.raises(
        TechniqueError, match=r"quantized already.*'first' \(paring.graph.fake_quantized.QuantizedConv2"
    ):
        technique.apply(after, job_of(model, inputs))


def bits_seen(technique: QuantizationAwareTraining, epochs: int) -> tuple[list[tuple[int, int]], nn.Module]:
    """Levels of weights and of inputs of a layer in the middle, at each step."""
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    job = job_of(model, inputs)
    student = technique.student(model, job)
    seen: list[tuple[int, int]] = []

    def loss(network: nn.Module, given: Any, targets: Any, share: float) -> Tensor:
        layer = network.wide
        assert isinstance(layer.weight_quantizer, LearnedWeights)  # type: ignore[union-attr]
        assert isinstance(layer.input_quantizer, LearnedInputs)  # type: ignore[union-attr]
        seen.append((layer.weight_quantizer.bits, layer.input_quantizer.high))  # type: ignore[union-attr]
        return network(given).square().mean()  # type: ignore[no-any-return]

    _, constraint = technique.shaped(loss, student, job)
    train = job.task.train
    assert train is not None
    fit_(student, train, loss, Training(epochs, 0.01), job, constraint=constraint)
    return seen[1:], technique.finished(student)


def test_progressive_bits_go_down_in_the_first_half() -> None:
    technique = QuantizationAwareTraining(weights="ternary", activations="uint4", progressive=True)
    seen, after = bits_seen(technique, 32)
    weights, highs = ([bits for bits, _ in seen[-32:]], [high for _, high in seen[-32:]])
    assert weights == sorted(weights, reverse=True)
    assert highs == sorted(highs, reverse=True)
    assert set(weights) == {8, 7, 6, 5, 4, 3, 2}
    assert set(highs) == {255, 127, 63, 31, 15}
    assert weights[16:] == [2] * 16
    assert len(after.wide.weight[0].unique()) <= 3  # type: ignore[union-attr,index]


def test_progressive_bits_are_the_wanted_ones_however_early_a_training_ends() -> None:
    model, inputs = trained(Several()), normal(8, 3, 8, 8)
    technique = QuantizationAwareTraining(weights="int3", activations="uint4", progressive=True)
    student = technique.student(model, job_of(model, inputs))
    held = HeldSteps(student, HeldZeros(student, model), progressive=True)
    with held.shown_(0.01):
        student(inputs)
    assert student.wide.weight_quantizer.bits == 8  # type: ignore[union-attr]
    held.finish_()
    technique.finished(student)
    assert len(student.wide.weight[0].unique()) <= 8  # type: ignore[union-attr,index]
    assert student.wide.input_quantizer.high == 15  # type: ignore[union-attr]


@pytest.mark.parametrize("rate", [0.02, 3.0])
def test_steps_stay_positive_and_none_leaps(rate: float) -> None:
    model, inputs = trained(Several()), normal(32, 3, 8, 8)
    technique = QuantizationAwareTraining(epochs=8, learning_rate=rate, weights="int3", activations="uint3")
    after = technique.apply(model, job_of(model, inputs))
    before = technique.shrunk(model, job_of(model, inputs))
    for (_, layer), (_, first) in zip(quantized_layers(after), quantized_layers(before), strict=True):
        for each, other in zip(layer.children(), first.children(), strict=True):
            assert isinstance(each, FixedInputs | FixedWeights)
            ratio = each.scale / other.scale  # type: ignore[operator]
            assert (ratio > 1.0101**-8).all()
            assert (ratio < 1.0101**8).all()


@pytest.mark.parametrize(
    ("technique", "lost"),
    [
        (QuantizationAwareTraining(weights="int8"), 0.015),
        (QuantizationAwareTraining(weights="int4", activations="uint4"), 0.02),
        (QuantizationAwareTraining(weights="ternary", activations="uint4", progressive=True), 0.04),
        (QuantizationAwareTraining(weights="binary", activations="uint4"), 0.03),
        (QuantizationAwareTraining(weights="ternary", activations="uint1"), 0.04),
        (QuantizationAwareTraining(weights="binary", activations="binary"), 0.05),
    ],
    ids=str,
)
def test_a_network_that_knows_the_digits_knows_them_with_few_values(
    technique: QuantizationAwareTraining, lost: float
) -> None:
    after = replace(technique, epochs=8).apply(taught(), digits_job())
    assert score(after) >= score(taught()) - lost


def test_training_brings_back_what_few_values_lose() -> None:
    technique = QuantizationAwareTraining(epochs=8, weights="int2", activations="uint2", ends="same")
    untrained_score = score(technique.shrunk(taught(), digits_job()))
    assert score(technique.apply(taught(), digits_job())) > untrained_score + 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_less_than_float32_trains_as_well(precision: Any) -> None:
    technique = QuantizationAwareTraining(epochs=8, weights="int3", activations="uint4", precision=precision)
    assert score(technique.apply(taught(), digits_job())) > score(taught()) - 0.02


def test_it_proposes_one_that_runs() -> None:
    (variant,) = QuantizationAwareTraining.variants(Net().eval(), digits_job())
    assert variant == QuantizationAwareTraining(weights="int8")
