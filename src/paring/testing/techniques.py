"""The contract of techniques: what the search relies on, checked on any technique with any network."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from paring.backends.kernel_forms import FORMS
from paring.backends.runner import graph_runner
from paring.data.batches import mapped, model_call, sample, tensors_of
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques.base import GraphTechnique, ModuleTechnique, Part, Technique
from paring.types import Arrays, Coverage, named


def check_technique(technique: Technique, model: nn.Module, job: Job) -> None:
    """Assert that a technique keeps its contract on a network. Raises AssertionError that says which part is broken."""
    check_settings(technique)
    if isinstance(technique, ModuleTechnique):
        check_module_technique(technique, model, job)
    else:
        assert isinstance(technique, GraphTechnique), f"{technique} is neither a module nor a graph technique"
        inputs, _ = sample(job.calibrate)
        graph = export_onnx(export_program(model, inputs), signature_of(model, inputs))
        check_graph_technique(technique, graph, job)


def check_settings(technique: Technique) -> None:
    """A frozen dataclass whose settings are plain values, and that prints as people read it."""
    assert dataclasses.is_dataclass(technique), f"{technique.name} is no dataclass"
    assert technique.__dataclass_params__.frozen, f"{technique.name} is not frozen"
    json.dumps(technique.settings())
    assert str(technique).startswith(technique.name)
    for form in technique.forms if isinstance(technique, GraphTechnique) else ():
        assert form in FORMS, f"{technique} asks for the form {form!r}, which `paring doctor --kernels` does not have"


def check_module_technique(technique: ModuleTechnique, model: nn.Module, job: Job) -> None:
    """The input stays as it was; the result is in eval mode, the same each time, and answers in the same shapes."""
    before = copy.deepcopy(model.state_dict())
    after = technique.apply(model, job)
    assert after is not model, f"{technique} returned its input"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{technique} changed its input: {name}"
    assert not any(module.training for module in after.modules()), f"{technique} left a module in train mode"
    inputs, _ = sample(job.calibrate)
    _same_shapes(technique, model, after, inputs)
    again = technique.apply(model, job)
    for one, other in zip(after.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), f"{technique} gives another network each time"
    check_coverage(technique.coverage(model, after, job), technique)
    check_variants(technique, lambda: technique.variants(model, job))
    check_parts(list(technique.parts(model, job)), model, job)


def check_variants(technique: Technique, variants: Callable[[], Iterator[Technique]]) -> None:
    """They are settings of this technique. A TechniqueError that says why there are none will do in their place."""
    found = []
    try:
        for variant in variants():
            found.append(variant)
            assert isinstance(variant, type(technique)), f"{technique.name} has a variant of another kind: {variant}"
            check_settings(variant)
    except TechniqueError as error:
        if found:
            raise AssertionError(f"{technique.name} raises after {len(found)} of its variants: {error}") from error


def check_parts(parts: Sequence[Part[ModuleTechnique]], model: nn.Module, job: Job) -> None:
    """Parts differ, and two of them joined are a technique that does what both do, whichever comes first."""
    assert len({str(part.technique) for part in parts}) == len(parts), f"{parts[0].technique.name} has a part twice"
    assert len({(part.layer, part.share) for part in parts}) == len(parts), "two parts take the same of the same layer"
    for part in parts:
        assert 0 < part.share <= 1, f"{part.technique} takes a share of {part.share}"
    for one, other in pairwise(part.technique for part in parts):
        both, turned = one.joined(other), other.joined(one)
        check_settings(both)
        assert both == turned, f"{one} and {other} joined depend on their order"
        apart = [_changed(part, model, job) for part in (one, other)]
        assert set.union(*apart) <= _changed(both, model, job), f"{both} does not do all that {one} and {other} do"


def _changed(technique: ModuleTechnique, model: nn.Module, job: Job) -> set[str]:
    """The layers that a technique changes, by its coverage."""
    told = technique.coverage(model, technique.apply(model, job), job)
    return {layer.layer for layer in told.layers if layer.changed}


def _same_shapes(technique: Technique, model: nn.Module, after: nn.Module, inputs: Any) -> None:
    for rows in (1, 3):
        some = mapped(inputs, lambda value, rows=rows: value[:1].repeat(rows, *[1] * (value.ndim - 1)))
        with torch.inference_mode():
            wanted, found = (tensors_of(model_call(network, some)) for network in (model, after))
        shapes = [tuple(value.shape) for value in wanted]
        assert [tuple(value.shape) for value in found] == shapes, f"{technique} changed the outputs' shapes"
        assert all(bool(torch.isfinite(value).all()) for value in found), f"{technique} gives NaN or infinity"


def check_graph_technique(technique: GraphTechnique, graph: onnx.ModelProto, job: Job) -> None:
    """The input stays as it was; the result is valid ONNX, the same each time, and answers in the same shapes."""
    before = graph.SerializeToString(deterministic=True)
    after = technique.apply(graph, job)
    assert graph.SerializeToString(deterministic=True) == before, f"{technique} changed its input"
    onnx.checker.check_model(after)
    again = technique.apply(graph, job).SerializeToString(deterministic=True)
    assert again == after.SerializeToString(deterministic=True), f"{technique} gives another graph each time"
    inputs, _ = sample(job.calibrate)
    names = [value.name for value in graph.graph.input]
    for rows in (1, 3):
        arrays = {name: np.repeat(value[:1].numpy(), rows, axis=0) for name, value in named(inputs, names).items()}
        _same_answers(technique, _answers(graph, arrays), _answers(after, arrays))
    check_coverage(technique.coverage(graph, after, job), technique)
    check_variants(technique, lambda: technique.variants(graph, job))


def _answers(graph: onnx.ModelProto, inputs: Arrays) -> Arrays:
    with graph_runner(graph) as session:
        return session.run(inputs)


def _same_answers(technique: Technique, wanted: Arrays, found: Arrays) -> None:
    assert list(found) == list(wanted), f"{technique} changed the outputs' names"
    for name, value in wanted.items():
        assert found[name].shape == value.shape, f"{technique} changed the shape of {name}"
        assert found[name].dtype == value.dtype, f"{technique} changed the dtype of {name}"
        assert np.isfinite(found[name]).all(), f"{technique} gives NaN or infinity in {name}"


def check_coverage(coverage: Coverage, technique: Technique) -> None:
    """Every layer is named once and has a reason where it was left alone."""
    names = [layer.layer for layer in coverage.layers]
    assert len(names) == len(set(names)), f"{technique} names a layer twice in its coverage"
    for layer in coverage.layers:
        assert layer.changed or layer.reason, f"{technique} does not say why it left {layer.layer} alone"
    assert 0 <= coverage.share("parameters") <= 1
    assert 0 <= coverage.share("macs") <= 1
