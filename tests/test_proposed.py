"""What is proposed for a network, by what its layers and this machine can gain; and what is told of the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
import pytest

from paring.backends import kernels as module
from paring.backends.base import Backend
from paring.backends.kernels import Kernel
from paring.techniques import BitAllocation, DynamicQuantization, SmoothQuant, WeightQuantization
from paring.types import Budget, Objective
from tests.quantization_nets import attention_block, job, perceptron, residual_net, rows
from tests.worlds import Fast, Int, Uneven, World, explore, world

TIME, BYTES = Budget(), Budget(objective="size")


def proposed(graph: onnx.ModelProto, budget: Budget) -> tuple[list[WeightQuantization], dict[str, str]]:
    """The settings of WeightQuantization that a search tries first, and what it does not try."""
    scene = replace(world(budget=budget).scene, graph=graph, job=job(rows(4, 4)), techniques=(WeightQuantization,))
    return scene.graph_variants(WeightQuantization, Fast()), scene.not_tried  # type: ignore[return-value]


def test_weights_alone_are_not_narrowed_for_speed_where_only_convolutions_would_be() -> None:
    found, not_tried = proposed(residual_net(), TIME)
    assert not found
    assert not_tried["WeightQuantization"] == (
        "no runtime here gains latency by it on this network: it serves the objective size or memory."
    )
    for budget in (BYTES, Budget(max_size_bytes=1000)):
        found, not_tried = proposed(residual_net(), budget)
        assert len(found) == 3
        assert "WeightQuantization" not in not_tried


@pytest.mark.parametrize("graph", [perceptron(), attention_block()])
def test_they_are_where_linear_layers_are_multiplied_as_stored(graph: onnx.ModelProto) -> None:
    found, not_tried = proposed(graph, TIME)
    assert len(found) == 3
    assert "WeightQuantization" not in not_tried


def test_settings_that_serve_nothing_that_is_wanted_make_way_for_those_that_do() -> None:
    @dataclass(frozen=True)
    class Some(Int):
        def serves(self, graph: onnx.ModelProto) -> tuple[Objective, ...]:
            return ("latency",) if self.bits < 8 else ("size",)

    there = world(techniques=(Some,), train=False)
    explore(there)
    assert {candidate.recipe for candidate in there.asked} == {(), (Some(6),), (Some(4),)}
    assert "Some" not in there.scene.not_tried


def test_what_was_given_with_settings_is_tried_whatever_the_budget() -> None:
    scene = replace(world().scene, graph=residual_net())
    assert scene.graph_variants(WeightQuantization("int4"), Fast()) == [WeightQuantization("int4")]


def test_a_technique_of_graphs_that_serves_another_objective_is_told() -> None:
    assert world(techniques=(BitAllocation, SmoothQuant), backends=(Fast,)).scene.not_tried == {
        "BitAllocation": "no runtime here gains latency by it: it serves the objective size.",
        "SmoothQuant": "it only serves another technique of graphs, and none was asked for.",
    }


@dataclass(frozen=True)
class Stored(Int):
    """Asks for a form."""

    @property
    def forms(self) -> tuple[str, ...]:
        return ("int8 dynamic",)


def tried(asked: object, speedups: dict[str, tuple[float | None, ...]], budget: Budget) -> tuple[set[str], World]:
    """On which backends it is tried alone, where the layers of its form have these speeds."""

    def table(backend: type[Backend], forms: tuple[str, ...]) -> tuple[Kernel, ...]:
        return tuple(Kernel(backend.name, "linear", *forms, "integers", speed) for speed in speedups[backend.name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "kernels", table)
        there = world(techniques=(asked,), backends=(Fast, Uneven), train=False, budget=budget)  # type: ignore[arg-type]
        explore(there)
    return {candidate.backend.name for candidate in there.asked if candidate.recipe}, there


def test_a_form_that_is_slower_than_fp32_in_all_layers_is_not_tried_for_speed() -> None:
    speeds = {"fast": (0.42, 0.873), "uneven": (0.42, 1.5)}
    found, there = tried(Stored, speeds, TIME)
    assert found == {"uneven"}
    assert there.scene.not_tried["Stored on fast"] == (
        "int8 dynamic runs at 0.87x the speed of fp32 here at best, as measured: pass it with its settings to try it "
        "all the same."
    )
    for asked, budget in ((Stored(), TIME), (Stored, BYTES), (Stored, Budget(max_size_bytes=1000))):
        found, there = tried(asked, speeds, budget)
        assert found == {"fast", "uneven"}
        assert not there.scene.not_tried


def test_one_of_which_no_layer_was_timed_is_tried() -> None:
    found, _ = tried(Stored, {"fast": (None,), "uneven": (1.0,)}, TIME)
    assert found == {"fast", "uneven"}


def test_speeds_are_those_that_the_run_has_measured_before() -> None:
    known = {"fast: int8 dynamic, percent of fp32's speed": 50}
    scene = world(techniques=(Stored,), backends=(Fast,)).scene
    scene = replace(scene, job=replace(scene.job, measured=lambda what, _: known[what]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paring.tune.proposing.flaw", lambda *_: "")
        assert not scene.graph_variants(Stored, Fast())
    assert "at 0.50x the speed" in scene.not_tried["Stored on fast"]


def test_ranges_found_at_run_time_are_a_form() -> None:
    assert DynamicQuantization().forms == ("int8 dynamic",)
