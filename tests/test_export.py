"""From a module to a graph: names, structures, the dynamic batch, and the place where it can't be done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from paring.errors import ExportError, TaskError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.onnx_layers import weighted_layers
from paring.graph.signature import graph_signature
from paring.types import Signature, TensorSpec, named


class Two(nn.Module):
    """Two inputs, two outputs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, u: Tensor, v: Tensor) -> dict[str, Tensor]:
        hidden = self.left(u) + self.right(v)
        return {"scores": hidden.softmax(-1), "hidden": hidden}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.sum(1, keepdim=True)


class Alike(nn.Module):
    """Weights, an input, outputs and inner values that have the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.weight = nn.Parameter(torch.tensor([2.0, 3.0])), nn.Parameter(torch.eye(2) + 1)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        y = x @ self.weight
        return {"weight": (y + scale).relu(), "x": y * self.scale, "x_output": y, "val_0": -y.exp(), "scale": scale}


class Passes(nn.Module):
    """Returns what it was given, and one value under two names."""

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        y = x * mask
        return {"mask": mask, "y": y, "again": y, "x": x}


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Branch()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


class Text(nn.Module):
    """Layers whose weights the exporter transposes, folds into others, or uses twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.conv, self.norm = nn.Conv1d(8, 8, 1, bias=False), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 8)
        self.free = nn.Parameter(torch.eye(8))

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.norm(self.conv(self.block(self.table(words)).transpose(1, 2))).mean(2)
        return self.head(self.head(hidden)) @ self.free  # type: ignore[no-any-return]


def test_layers_bear_the_names_of_their_modules() -> None:
    words = torch.randint(0, 10, (3, 5))
    model = Text().eval()
    layers = weighted_layers(export_onnx(export_program(model, words), signature_of(model, words)))
    names = [layer.name for layer in layers]
    assert names[0] == "table"
    assert names[1].startswith("block.self_attn")
    assert names[2:-1] == ["block.self_attn.out_proj", "block.linear1", "block.linear2", "conv", "head", "head_1"]
    assert names[-1].startswith("node_")


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Linear(4, 3), torch.randn(3, 4)),
        (Two(), {"u": torch.randn(3, 4), "v": torch.randn(3, 2)}),
        (Two(), (torch.randn(1, 4), torch.randn(1, 2))),
        (Two(), {"v": torch.randn(3, 2), "u": torch.randn(3, 4)}),
        (Pair(), torch.randn(3, 4)),
        (Alike(), {"x": torch.randn(3, 2), "scale": torch.randn(3, 2)}),
        (Passes(), {"x": torch.randn(3, 2), "mask": torch.randn(3, 2)}),
    ],
    ids=["tensor", "dict", "tuple of one row", "another order", "two outputs", "names alike", "passed through"],
)
def test_the_graph_answers_as_the_module_for_any_number_of_rows(model: nn.Module, inputs: object) -> None:
    model.eval()
    signature = signature_of(model, inputs)
    graph = export_onnx(export_program(model, inputs), signature)
    onnx.checker.check_model(graph)
    assert [value.name for value in graph.graph.input] == list(signature.input_names)
    assert [value.name for value in graph.graph.output] == list(signature.graph_output_names)
    for rows in (1, 5):
        values = {name: value[:1].repeat(rows, 1) for name, value in named(inputs, signature.input_names).items()}
        with torch.no_grad():
            wanted = model(**values) if isinstance(inputs, dict) else model(*values.values())
        found = ReferenceEvaluator(graph).run(None, {name: value.numpy() for name, value in values.items()})
        for array, tensor in zip(found, named(wanted, signature.output_names).values(), strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-6)


def test_an_output_that_is_called_like_an_input_has_a_name_of_its_own_in_the_graph() -> None:
    spec = TensorSpec("x", "float32", (None,))
    other = replace(spec, name="x_output")
    signature = Signature((spec,), (spec, other), "dict", "dict")
    assert signature.graph_output_names == ("x_output_1", "x_output")
    assert signature.as_named({"x_output_1": 1, "x_output": 2}) == {"x": 1, "x_output": 2}
    assert signature.as_named({"x": 1, "x_output": 2}) == {"x": 1, "x_output": 2}, "a runtime that reads no graph"


def test_branches_inside_the_graph_read_the_values_under_their_new_names() -> None:
    class Chooses(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = x + 1
            return {"x": torch.cond(x.sum() > 0, lambda a: a.sin() * 2, lambda a: a - 3, (y,)), "cond": y}

    model = Chooses().eval()
    inputs = {"x": torch.rand(3, 2)}
    graph = export_onnx(export_program(model, inputs), signature_of(model, inputs))
    for sign in (1, -1):
        given = {"x": sign * inputs["x"]}
        found = ReferenceEvaluator(graph).run(None, {"x": given["x"].numpy()})
        for array, tensor in zip(found, model(**given).values(), strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5)


class Gathered(nn.Module):
    """Takes any number of inputs."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return torch.stack([first, *others]).sum(0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_inputs_that_are_gathered_have_a_dynamic_batch(count: int) -> None:
    model, inputs = Gathered().eval(), tuple(torch.randn(count, 3, 2))
    graph = export_onnx(export_program(model, inputs), signature_of(model, inputs))
    assert [value.type.tensor_type.shape.dim[0].dim_param != "" for value in graph.graph.input] == [True] * count


def test_the_graph_says_nothing_of_where_it_was_made() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    graph = export_onnx(export_program(model, torch.randn(2, 4)), signature_of(model, torch.randn(2, 4)))
    assert str(Path(__file__).parent).encode() not in graph.SerializeToString()
    assert b"torch" not in b"".join(node.SerializeToString() for node in graph.graph.node)


def test_a_graph_has_the_signature_of_its_module() -> None:
    inputs = {"u": torch.randn(3, 4), "v": torch.randn(3, 2)}
    signature = signature_of(Two().eval(), inputs)
    found = graph_signature(export_onnx(export_program(Two().eval(), inputs), signature).graph, "dict")
    assert found.inputs == signature.inputs
    assert found.output_names == signature.output_names
    assert found.output_structure == "tuple"


def test_control_flow_that_depends_on_data_is_named_with_its_place() -> None:
    with pytest.raises(ExportError) as error:
        export_program(Holder().eval(), torch.randn(3, 4))
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "if x.sum() > 0" in text)
    assert f"in module 'inner' at {__file__}:{line}" in str(error.value)
    assert "torch.where" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda x: "text", "returns a str"),
        (lambda x: 3, "returns a int"),
        (lambda x: {"a": 3}, "returns a dict that holds a int"),
        (lambda x: {"a": (x, x)}, "returns a dict that holds a tuple"),
        (lambda x: {1: x}, "returns a dict with the key 1: name each of its outputs by a str"),
        (lambda x: (), "returns an empty tuple"),
        (lambda x: x.bfloat16(), r"returns bfloat16, which runtimes can't hand back: end it with \.float\(\)"),
        (lambda x: x.sum(), "is a scalar"),
    ],
)
def test_outputs_that_are_no_batches_of_tensors(forward: object, says: str) -> None:
    model = nn.Module()
    model.forward = forward  # type: ignore[assignment, method-assign]
    with pytest.raises(TaskError, match=says):
        signature_of(model.eval(), torch.randn(3, 4))
