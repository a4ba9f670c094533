"""Networks on disk: made once for every runtime that reads them, kept while one of those needs them."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from paring.backends.torch import Torch
from paring.data.job import Job
from paring.errors import ParingError, TechniqueError, TimeUpError
from paring.flow.identity import model_digest
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.flow.trials import TrialRunner
from paring.techniques import calibration
from paring.techniques.base import Recipe
from paring.techniques.fine_tune import FineTune
from paring.techniques.iterative_pruning import IterativePruning
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.static_quantization import StaticQuantization
from paring.train.weights import save_weights, with_weights
from paring.tune import Candidate
from paring.tune.candidate import digest, recipe_json
from paring.types import Budget, Coverage, LayerChange, Task
from tests import sleepy
from tests.quantization_nets import job, residual_net, rows


def made(folder: Path) -> Networks:
    task = sleepy.task(200)
    return Networks(Job.of(task), task_signature(task), folder)


def counted(folder: Path) -> sleepy.Counted:
    return sleepy.Counted(file=str(folder / "applied"))


def times_applied(technique: sleepy.Counted) -> int:
    return len(Path(technique.file).read_text().splitlines())


def test_runtimes_that_read_the_same_format_share_a_network(tmp_path: Path) -> None:
    networks, technique = made(tmp_path), counted(tmp_path)
    one, other = (Candidate((technique,), b, "post-training") for b in (sleepy.Sleepy(), sleepy.Drowsy()))
    assert networks.build(one) == networks.build(other)
    assert times_applied(technique) == 1
    assert one.key != other.key


def test_runtimes_of_another_format_do_not(tmp_path: Path) -> None:
    networks = made(tmp_path)
    graph, archive = (networks.build(Candidate((), b, "baseline")) for b in (sleepy.Sleepy(), Torch()))
    assert (graph.network.name, archive.network.name) == ("network.onnx", "network.pt2")


def test_a_trained_network_is_carried_by_a_runtime_that_reads_no_graphs(tmp_path: Path) -> None:
    points, classes = sleepy.rows(64)
    task = Task(sleepy.network(), [(points, classes)], train=[(points, classes)])
    networks = Networks(Job.of(task), task_signature(task), tmp_path)
    built = networks.build(Candidate((FineTune(epochs=1),), Torch(), "training"))
    (found,) = Torch().load(built.network, threads=1).run({"input": points.numpy()}).values()
    before = sleepy.network()(points).detach().numpy()
    assert built.network.name == "network.pt2"
    assert found.shape == before.shape
    assert not np.array_equal(found, before)


def test_a_network_stays_while_one_of_its_runtimes_is_kept(tmp_path: Path) -> None:
    networks, technique = made(tmp_path), counted(tmp_path)
    kept, beaten = (Candidate((technique,), b, "post-training") for b in (sleepy.Sleepy(), sleepy.Drowsy()))
    networks.build(beaten)
    networks.forget(seen=[kept, beaten], kept=[kept])
    networks.build(kept)
    assert times_applied(technique) == 1
    networks.forget(seen=[kept, beaten], kept=[])
    networks.build(kept)
    assert times_applied(technique) == 2


def test_in_the_end_only_networks_that_are_kept_stay_with_the_modules_they_were_made_of(tmp_path: Path) -> None:
    points, classes = sleepy.rows(64)
    task = Task(sleepy.network(), [(points, classes)], train=[(points, classes)])
    networks = Networks(Job.of(task), task_signature(task), tmp_path)
    kept, trained, beaten = (
        Candidate(recipe, sleepy.Sleepy(), "training")
        for recipe in ((FineTune(epochs=1), sleepy.Cheapen()), (FineTune(epochs=2),), (sleepy.Cheapen(),))
    )
    for candidate in (kept, trained, beaten):
        networks.build(candidate)
    networks.keep([kept])
    left = {path.name for folder in ("modules", "networks") for path in (tmp_path / folder).iterdir()}
    assert left == {"original", digest(recipe_json(kept.module_part)), kept.network_key}
    assert networks.build(kept).network.is_file()


def test_a_hopeless_candidate_is_a_row_with_the_reason_and_is_not_made(tmp_path: Path) -> None:
    networks, technique = made(tmp_path), counted(tmp_path)
    unused = cast(Any, None)
    runner = TrialRunner(networks, unused, unused, unused, "sleepy", Budget(), 1, networks.job)
    trial = runner.run(Candidate((technique,), sleepy.Sleepy(), "post-training", hopeless="it is ten times slower"), 3)
    assert (trial.outcome, trial.reason, trial.latency_ms) == ("skipped", "it is ten times slower", None)
    assert not Path(technique.file).exists()


@dataclass(frozen=True)
class Fails(sleepy.Blunt):
    """Raises the error of that name, each time that it is applied."""

    error: str = "TechniqueError"

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        super().apply(model, job)
        raise ERRORS[self.error]


ERRORS = {
    "TechniqueError": TechniqueError("layer 'fc' can't be traced."),
    "KeyError": KeyError("a bug of the author's"),
    "MemoryError": MemoryError("no room"),
    "RuntimeError": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    "TimeUpError": TimeUpError("the time limit ended before this was done: allow more time."),
    "OSError": OSError(28, "No space left on device"),
}


def refusals(networks: Networks, *candidates: Candidate) -> list[str]:
    told = []
    for candidate in candidates:
        with pytest.raises((ParingError, OSError)) as error:
            networks.build(candidate)
        told.append(f"{type(error.value).__name__}: {error.value}")
    return told


@pytest.mark.parametrize(
    ("error", "applied"),
    [
        ("TechniqueError", 1),
        ("KeyError", 1),
        ("MemoryError", 4),
        ("RuntimeError", 4),
        ("TimeUpError", 4),
        ("OSError", 4),
    ],
)
def test_what_can_not_be_applied_is_not_asked_again_unless_it_may_be_otherwise_then(
    error: str, applied: int, tmp_path: Path
) -> None:
    technique = Fails(str(tmp_path / "applied"), error)
    recipes: list[Recipe] = [(technique,), (technique, sleepy.Blunt()), (technique, sleepy.Cheapen())]
    asked = [Candidate(recipe, sleepy.Sleepy(), "training") for recipe in recipes]
    told = refusals(made(tmp_path), Candidate((technique,), Torch(), "training"), *asked)
    assert len(set(told)) == 1
    assert len((tmp_path / "applied").read_text().splitlines()) == applied


def test_a_graph_that_is_refused_is_refused_for_every_backend_and_a_change_of_nothing_stays_one(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Idle(sleepy.Counted):
        """Changes nothing."""

        def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
            return Coverage(self.name, (LayerChange("gemm", False, "too small"),))

    technique, networks = Idle(file=str(tmp_path / "applied")), made(tmp_path)
    asked = [Candidate((technique,), backend, "post-training") for backend in (sleepy.Sleepy(), sleepy.Drowsy())]
    told = refusals(networks, *asked)
    assert told[0] == told[1]
    assert told[0].startswith("NothingChangedError: Idle(")
    assert times_applied(technique) == 1


def test_a_training_that_failed_is_asked_again_since_it_depends_on_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def diverges(self: FineTune, model: nn.Module, job: Job) -> nn.Module:
        begun.append(1)
        raise TechniqueError("the training diverged")

    monkeypatch.setattr(FineTune, "apply", diverges)
    networks = made(tmp_path)
    candidates = [Candidate((FineTune(),), backend, "training") for backend in (sleepy.Sleepy(), Torch())]
    assert refusals(networks, *candidates) == ["TechniqueError: the training diverged"] * 2
    assert len(begun) == 2


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each pass over the calibration rows."""
    found: list[int] = []
    whole = calibration.graph_runner

    def noted(*given: Any, **settings: Any) -> Any:
        found.append(1)
        return whole(*given, **settings)

    monkeypatch.setattr(calibration, "graph_runner", noted)
    return found


def test_every_calibration_starts_from_the_same_pass_over_the_rows(passes: list[int]) -> None:
    graph, shared = residual_net(), job(rows(8, 3, 8, 8))
    techniques = [
        StaticQuantization("mse"),
        StaticQuantization("min-max"),
        MixedPrecision(StaticQuantization("mse"), 1),
    ]
    found = [technique.apply(graph, shared) for technique in techniques]
    assert len(passes) == 1
    assert found == [technique.apply(graph, job(rows(8, 3, 8, 8))) for technique in techniques]
    assert len(passes) == 1 + len(techniques)


def test_another_graph_or_placement_is_observed_anew(passes: list[int]) -> None:
    shared = job(rows(8, 3, 8, 8))
    changed = residual_net()
    changed.graph.initializer[0].raw_data = bytes(len(changed.graph.initializer[0].raw_data))
    for graph, technique in [
        (residual_net(), StaticQuantization()),
        (changed, StaticQuantization()),
        (residual_net(), StaticQuantization(placement="inputs-only")),
    ]:
        technique.apply(graph, shared)
    assert len(passes) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_weights_come_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.register_buffer("extra", torch.tensor([[1.5, 0.0, -2.25]]).to(dtype))
    save_weights(model, tmp_path / "weights.npz")
    blank = copy.deepcopy(model)
    for value in blank.state_dict().values():
        value.zero_()
    found = with_weights(blank, tmp_path / "weights.npz")
    assert found is not None
    assert not found.training
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
        assert found.state_dict()[name].dtype == value.dtype


class Noted(nn.Linear):
    """Keeps what is no tensor among its state, as modules may."""

    def get_extra_state(self) -> Any:
        return {"made": "by hand"}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"made": "by hand"}


def test_trained_weights_come_back_beside_what_is_no_tensor(tmp_path: Path) -> None:
    model, blank = Noted(3, 2), Noted(3, 2)
    save_weights(model, tmp_path / "weights.npz")
    found = with_weights(blank, tmp_path / "weights.npz")
    assert found is not None
    assert torch.equal(found.get_parameter("weight"), model.weight)
    digests = {model_digest(Task(each.eval(), evaluate=[])) for each in (model, found, blank)}
    assert len(digests) == 2


def test_weights_of_another_structure_are_not_taken(tmp_path: Path) -> None:
    save_weights(nn.Linear(3, 2), tmp_path / "weights.npz")
    assert with_weights(nn.Linear(3, 3), tmp_path / "weights.npz") is None
    assert with_weights(nn.Linear(3, 2, bias=False), tmp_path / "weights.npz") is None
    assert with_weights(nn.Linear(3, 2), tmp_path / "none.npz") is None


def test_a_buffer_that_no_state_dict_holds_comes_back_too(tmp_path: Path) -> None:
    def network(value: float) -> nn.Module:
        model = nn.Linear(3, 2)
        model.register_buffer("scale", torch.full((2,), value), persistent=False)
        model.register_buffer("places", torch.arange(2).expand(4, 2), persistent=False)
        return model

    save_weights(network(2.0), tmp_path / "weights.npz")
    found = with_weights(network(1.0), tmp_path / "weights.npz")
    assert found is not None
    assert found.get_buffer("scale").tolist() == [2.0, 2.0]


def test_a_training_goes_on_from_one_that_another_process_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points, classes = sleepy.rows(64)
    task = Task(sleepy.network(), [(points, classes)], train=[(points, classes)])
    first, second = FineTune(epochs=1), FineTune(epochs=2)
    Networks(Job.of(task), task_signature(task), tmp_path).build(Candidate((first,), sleepy.Sleepy(), "training"))
    begun: list[FineTune] = []
    apply = FineTune.apply
    monkeypatch.setattr(FineTune, "apply", lambda self, model, job: begun.append(self) or apply(self, model, job))
    again = Networks(Job.of(task), task_signature(task), tmp_path)
    again.build(Candidate((first, second), sleepy.Sleepy(), "training"))
    assert begun == [second]


class Shifted(nn.Module):
    """Its channels meet those of a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(sleepy.FEATURES, 16), nn.Linear(16, sleepy.CLASSES)
        self.register_buffer("shift", torch.randn(16), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.down((self.up(x) + self.shift).relu()))


def test_a_training_that_took_channels_is_not_done_again_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, classes = sleepy.rows(64)
    task = Task(Shifted().eval(), [(points, classes)], train=[(points, classes)])
    pruned = IterativePruning(epochs=2, rounds=2, prune=PruneChannels(0.5), learning_rate=1.0)
    candidate = Candidate((pruned, FineTune(epochs=7)), sleepy.Sleepy(), "training")
    begun: list[nn.Module] = []

    def apply(self: FineTune, model: nn.Module, job: Job) -> nn.Module:
        begun.extend([copy.deepcopy(model)] if self.epochs == 7 else [])
        return apply_it(self, model, job)

    apply_it = FineTune.apply
    monkeypatch.setattr(FineTune, "apply", apply)
    for folder in ("done", "killed"):
        networks = Networks(Job.of(task), task_signature(task), tmp_path / folder)
        networks.build(Candidate((pruned,), sleepy.Sleepy(), "training"))
        networks.build(candidate)
        # The second one finds what was kept of the first training, and nothing else.
        kept = Path("modules", digest(recipe_json((pruned,))))
        if folder == "done":
            shutil.copytree(tmp_path / "done" / kept, tmp_path / "killed" / kept)
            monkeypatch.setattr(IterativePruning, "apply", lambda self, model, job: pytest.fail("it is trained again"))
    first, second = begun
    assert first.get_parameter("up.weight").shape == (8, sleepy.FEATURES)
    assert torch.equal(first(points), second(points))
