"""From a module to a graph: names, structures, the dynamic batch, and the place where it can't be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from paring.errors import ExportError, TaskError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.signature import graph_signature
from paring.types import named


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


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Linear(4, 3), torch.randn(3, 4)),
        (Two(), {"u": torch.randn(3, 4), "v": torch.randn(3, 2)}),
        (Two(), (torch.randn(1, 4), torch.randn(1, 2))),
        (Pair(), torch.randn(3, 4)),
    ],
    ids=["tensor", "dict", "tuple of one row", "two outputs"],
)
def test_the_graph_answers_as_the_module_for_any_number_of_rows(model: nn.Module, inputs: object) -> None:
    model.eval()
    signature = signature_of(model, inputs)
    graph = export_onnx(export_program(model, inputs), signature)
    assert [value.name for value in graph.graph.input] == list(signature.input_names)
    assert [value.name for value in graph.graph.output] == list(signature.output_names)
    for rows in (1, 5):
        values = {name: value[:1].repeat(rows, 1) for name, value in named(inputs, signature.input_names).items()}
        with torch.no_grad():
            wanted = model(**values) if isinstance(inputs, dict) else model(*values.values())
        found = ReferenceEvaluator(graph).run(None, {name: value.numpy() for name, value in values.items()})
        for array, tensor in zip(found, named(wanted, signature.output_names).values(), strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-6)


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
