"""FineTune: a damaged network comes back to what the original knows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from paring.data.batches import mapped, model_call, tensors_of
from paring.data.job import Job
from paring.errors import DataError, TaskError, TechniqueError
from paring.techniques.fine_tune import FineTune
from paring.train.distiller import Distiller, Teaching
from paring.train.settings import Precision
from paring.types import Batch, Task

SHORT = FineTune(epochs=3)


class Net(nn.Module):
    """(rows, 1, 8, 8) -> (rows, 10)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.linear = nn.Linear(channels * 16, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(image)))))
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


@cache
def digits() -> tuple[list[Batch], list[Batch]]:
    data = load_digits()
    images = torch.from_numpy(data.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(data.target).long()
    batches: list[Batch] = list(zip(images.split(64), labels.split(64), strict=True))
    return batches[:14], batches[14:]


@cache
def taught() -> nn.Module:
    """A network that knows the digits; only this test trains it, with labels alone."""
    torch.manual_seed(0)
    train, evaluate = digits()
    task = Task(Net().eval(), evaluate, train=train)
    return FineTune(epochs=15, label_weight=1.0, learning_rate=0.1).apply(task.model, Job.of(task, threads=1))


def unlabelled(batches: list[Batch]) -> list[Batch]:
    return [(inputs, None) for inputs, _ in batches]


def job_of(train: Any = None, seed: int = 0, model: nn.Module | None = None) -> Job:
    own, evaluate = digits()
    return Job.of(Task(model or taught(), evaluate, train=own if train is None else train), seed=seed, threads=1)


def fresh() -> nn.Module:
    torch.manual_seed(5)
    return Net(4).eval()


def score(model: nn.Module) -> float:
    with torch.inference_mode():
        right = [(model_call(model, x).argmax(1) == y).float() for x, y in digits()[1]]  # type: ignore[operator]
    return torch.cat(right).mean().item()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_student_learns_from_the_original_and_labels(precision: Precision) -> None:
    assert score(taught()) > 0.85
    student = fresh()
    assert score(student) < 0.3
    assert score(FineTune(epochs=10, precision=precision).apply(student, job_of())) > 0.85


@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_data_without_labels_is_taught_by_the_original_alone(mixing: Any) -> None:
    job = job_of(unlabelled(digits()[0]))
    assert score(FineTune(epochs=10, mixing=mixing).apply(fresh(), job)) > 0.8


def test_a_pruned_copy_comes_back() -> None:
    pruned = copy.deepcopy(taught())
    with torch.no_grad():
        pruned.conv2.weight[::2] = 0  # type: ignore[union-attr,operator]
        pruned.conv2.bias[::2] = 0  # type: ignore[union-attr,operator]
    damaged = score(pruned)
    assert damaged < score(taught()) - 0.05
    assert score(FineTune(epochs=8).apply(pruned, job_of())) > score(taught()) - 0.03


def test_inputs_stay_untouched_and_the_answer_is_in_eval_mode() -> None:
    student, original = fresh(), taught()
    before, teacher_before = weights(student), weights(original)
    after = SHORT.apply(student, job_of())
    assert torch.equal(weights(student), before)
    assert torch.equal(weights(original), teacher_before)
    assert not any(module.training for model in (after, student, original) for module in model.modules())
    assert all(value.is_contiguous() for value in after.state_dict().values())


def test_the_same_seed_gives_the_same_weights() -> None:
    technique = FineTune(epochs=2, mixing="mixup")
    one, same = (weights(technique.apply(fresh(), job_of(seed=1))) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, weights(technique.apply(fresh(), job_of(seed=2))))


def test_a_network_without_gradients_is_trained_all_the_same() -> None:
    student = fresh().requires_grad_(False)
    after = SHORT.apply(student, job_of())
    assert not torch.equal(after.linear.weight, student.linear.weight)  # type: ignore[union-attr,arg-type]
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_coverage_names_what_was_trained_and_what_was_frozen() -> None:
    job, student = job_of(), fresh()
    student.conv1.requires_grad_(False)
    coverage = SHORT.coverage(student, SHORT.apply(student, job), job)
    assert {layer.layer: layer.changed for layer in coverage.layers} == {"conv1": False, "conv2": True, "linear": True}
    assert "frozen" in coverage.layers[0].reason
    assert 0.9 < coverage.share("parameters") < 1
    assert 0 < coverage.share("macs") < 1


def test_frozen_batch_norm_keeps_its_statistics_and_the_others_learn_theirs() -> None:
    job, student = job_of(), fresh()
    free = SHORT.apply(student, job)
    assert not torch.equal(free.bn1.running_mean, student.bn1.running_mean)  # type: ignore[union-attr,arg-type]
    student.bn1.requires_grad_(False)
    frozen = SHORT.apply(student, job)
    for name, value in student.bn1.state_dict().items():
        assert torch.equal(frozen.bn1.state_dict()[name], value), name
    assert not torch.equal(frozen.conv1.weight, student.conv1.weight)  # type: ignore[union-attr,arg-type]


class Encoder(nn.Module):
    """(rows, 1, 8, 8) -> (rows, 10): the lines of an image are a sequence; LayerNorm and attention, no BatchNorm."""

    def __init__(self, width: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Linear(8, width), nn.LayerNorm(width), nn.Linear(width, 10)
        self.place = nn.Parameter(torch.randn(8, width) / 10)
        layers = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        lines = self.embedding(image.squeeze(1)) + self.place
        return self.head(self.norm(self.layers(lines)).mean(1))  # type: ignore[no-any-return]


def test_a_transformer_that_lost_a_layer_comes_back_without_diverging() -> None:
    torch.manual_seed(0)
    train, evaluate = digits()
    untaught = Encoder().eval()
    job = Job.of(Task(untaught, evaluate, train=train), threads=1)
    teacher = FineTune(epochs=8, label_weight=1.0, learning_rate=0.1).apply(untaught, job)
    shorter = copy.deepcopy(teacher)
    del shorter.layers[0]  # type: ignore[union-attr, operator]
    said: list[str] = []
    after = FineTune(epochs=4).apply(shorter, replace(job_of(model=teacher), say=said.append))
    assert score(shorter) < score(teacher) - 0.3
    assert score(after) > score(teacher) - 0.15
    assert not any("not finite" in line for line in said)


def test_a_damaged_network_with_a_tuple_of_answers_comes_back() -> None:
    class Several(Net):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            scores = super().forward(image)
            return scores, scores.logsumexp(1, keepdim=True)

    teacher = Several().eval()
    teacher.load_state_dict(taught().state_dict())
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.conv2.weight[::2] = 0
        student.conv2.bias[::2] = 0  # type: ignore[index]
    train, evaluate = digits()
    task = Task(teacher, evaluate, train=unlabelled(train), metric=lambda o, t: (o[0].argmax(1) == t).float())
    after = FineTune(epochs=8).apply(student, Job.of(task, threads=1))

    def first_score(model: nn.Module) -> float:
        with torch.inference_mode():
            return torch.cat([(model(x)[0].argmax(1) == y).float() for x, y in evaluate]).mean().item()

    assert first_score(student) < first_score(teacher) - 0.05
    assert first_score(after) > first_score(teacher) - 0.03


def test_class_scores_among_several_outputs_are_compared_by_their_distributions() -> None:
    class Shifted(nn.Module):
        def __init__(self, scores: float, features: float) -> None:
            super().__init__()
            self.scores, self.features = nn.Parameter(torch.tensor(scores)), nn.Parameter(torch.tensor(features))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 3 + self.scores, x * 2 + self.features

    inputs, classes = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 5
    task = Task(Shifted(0.0, 0.0).eval(), [(inputs, classes)], metric=lambda o, t: (o[0].argmax(1) == t).float())
    distiller = Distiller(Teaching(label_weight=0, mixing="none"), Job.of(task, threads=1))
    assert distiller(Shifted(7.0, 0.0), inputs, None, 0.0).item() == pytest.approx(0, abs=1e-5)
    assert distiller(Shifted(0.0, 7.0), inputs, None, 0.0).item() > 1


class TwoHeads(nn.Module):
    """Numbers and an embedding from two named inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 16)
        self.number = nn.Linear(16, 1)
        self.embedding = nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        x = torch.tanh(self.body(torch.cat([left, right], 1)))
        return {"number": self.number(x) * 100 + 1000, "embedding": self.embedding(x), "rank": x.argmax(1)}


def gap(student: nn.Module, teacher: nn.Module, batches: list[Batch]) -> float:
    with torch.inference_mode():
        answers = [(model_call(student, x), model_call(teacher, x)) for x, _ in batches]
    pairs = [(a[name], b[name]) for a, b in answers for name in ("number", "embedding")]
    return sum(((a - b).square().mean() / b.var()).item() for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("distillation", ["auto", "cosine"])
def test_dict_inputs_and_several_outputs_that_are_no_classes(distillation: Any) -> None:
    torch.manual_seed(0)
    data: list[Batch] = [({"left": torch.randn(32, 2), "right": torch.randn(32, 3)}, None) for _ in range(10)]
    teacher, student = TwoHeads().eval(), TwoHeads().eval()
    evaluate = [(inputs, torch.zeros(32)) for inputs, _ in data]
    task = Task(teacher, evaluate, train=data, metric=lambda outputs, targets: targets)
    after = FineTune(epochs=60, distillation=distillation).apply(student, Job.of(task, threads=1))
    assert set(after(**data[0][0])) == {"number", "embedding", "rank"}  # type: ignore[arg-type]
    if distillation == "auto":
        assert gap(after, teacher, data) < 0.1 * gap(student, teacher, data)
    else:
        with torch.inference_mode():
            pairs = [(m["embedding"], t["embedding"]) for m, t in ((after(**x), teacher(**x)) for x, _ in data)]  # type: ignore[arg-type]
        assert torch.cosine_similarity(*(torch.cat(side) for side in zip(*pairs, strict=True))).mean() > 0.95


def test_tuple_inputs_and_a_loss_of_the_users_own() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.linear(one + other)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    inputs = [(torch.randn(16, 3), torch.randn(16, 3)) for _ in range(8)]
    data: list[Batch] = [(pair, (pair[0] + pair[1]).sum(1, keepdim=True)) for pair in inputs]
    untaught = Sum().eval()
    task = Task(untaught, data, train=data, loss=mse_loss, metric=lambda o, t: -(o - t).square().mean(1))
    after = FineTune(epochs=40, label_weight=1.0, learning_rate=0.1).apply(untaught, Job.of(task, threads=1))
    torch.testing.assert_close(after.linear.weight, torch.ones(1, 3), rtol=0, atol=0.05)  # type: ignore[union-attr]


def test_a_network_that_ends_in_a_softmax_is_taught_by_its_distributions() -> None:
    teacher = nn.Sequential(taught(), nn.Softmax(-1)).eval()
    student = nn.Sequential(fresh(), nn.Softmax(-1)).eval()
    job = job_of(unlabelled(digits()[0]), model=teacher)
    assert score(FineTune(epochs=10).apply(student, job)) > 0.8


def relabelled(change: Callable[[Tensor], Tensor]) -> list[Batch]:
    return [(inputs, mapped(targets, change)) for inputs, targets in digits()[0]]


@pytest.mark.parametrize(("label", "told"), [(10, "label 12"), (-8, "label -6")])
def test_labels_out_of_range_are_named(label: int, told: str) -> None:
    train = relabelled(lambda targets: torch.where(targets == 2, targets + label, targets))
    job = replace(job_of(), task=replace(job_of().task, train=train))
    with pytest.raises(TaskError, match=rf"{told}, but the network has 10 classes \(0 to 9\)"):
        SHORT.apply(fresh(), job)


@pytest.mark.parametrize("seed", range(4))
def test_one_label_out_of_range_is_found_also_where_its_batch_would_be_mixed(seed: int) -> None:
    train = [(inputs, targets.clone()) for inputs, targets in digits()[0]]
    train[9][1][3] = 99
    with pytest.raises(DataError, match="label 99, but the network has 10 classes"):
        FineTune(epochs=1).apply(fresh(), job_of(train, seed))


class FailsLater:
    """Good batches in the first pass; in the second one the data raises, or holds NaN."""

    def __init__(self, raises: bool) -> None:
        self.raises, self.passes = raises, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        yield from digits()[0]
        if self.passes > 3 and self.raises:
            raise OSError("gone.png")
        yield torch.full((8, 1, 8, 8), torch.nan if self.passes > 3 else 0.5), None


@pytest.mark.parametrize(
    ("raises", "says"), [(True, "train failed after batch 14: OSError: gone.png"), (False, "train holds NaN")]
)
def test_data_that_fails_in_a_later_pass_is_told_as_the_data_s_fault(raises: bool, says: str) -> None:
    with pytest.raises(DataError, match=says):
        FineTune(epochs=6).apply(fresh(), job_of(FailsLater(raises)))


def test_positions_without_a_label_are_left_to_the_teacher() -> None:
    train = relabelled(lambda targets: torch.where(targets == 2, -100, targets))
    job = replace(job_of(), task=replace(job_of().task, train=train))
    assert score(FineTune(epochs=10).apply(fresh(), job)) > 0.8


def test_without_training_data_it_says_what_is_missing() -> None:
    job = Job.of(Task(taught(), digits()[1]), threads=1)
    with pytest.raises(TaskError, match=r"FineTune needs training data.*targets may be None"):
        SHORT.apply(fresh(), job)
    with pytest.raises(TechniqueError, match="the task has no `train` data"):
        next(FineTune.variants(fresh(), job))
    with pytest.raises(TechniqueError, match="the network has no parameters to train"):
        next(FineTune.variants(nn.Identity(), job_of()))


def test_a_graph_can_not_teach() -> None:
    job = replace(job_of(), task=Task(Path("net.onnx"), digits()[1], train=digits()[0]))
    with pytest.raises(TaskError, match=r"net\.onnx is a graph"):
        SHORT.apply(fresh(), job)


def test_nan_from_the_network_is_no_result() -> None:
    student = fresh()
    with torch.no_grad():
        student.linear.weight.fill_(math.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(TechniqueError, match="not finite"):
        SHORT.apply(student, job_of())


def test_what_it_proposes_runs() -> None:
    (variant,) = FineTune.variants(fresh(), job_of())
    after = replace(variant, epochs=1).apply(fresh(), job_of())
    assert all(torch.isfinite(value).all() for value in tensors_of(after(digits()[0][0][0])))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("learning_rate", -1.0),
        ("distillation", "hint"),
        ("temperature", 0.0),
        ("label_weight", 1.5),
        ("mixing", "stir"),
        ("feature_weight", 0.0),
    ],
)
def test_settings_out_of_range_are_quoted(field: str, value: object) -> None:
    with pytest.raises(TechniqueError, match=f"{field}={value!r}"):
        replace(FineTune(), **{field: value})  # type: ignore[arg-type]


def test_with_labels_alone_the_original_is_not_asked() -> None:
    train, evaluate = digits()
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    technique = FineTune(epochs=10, label_weight=1.0, mixing="mixup", learning_rate=0.1)
    assert score(technique.apply(fresh(), Job.of(Task(wrong, evaluate, train=train), threads=1))) > 0.85
