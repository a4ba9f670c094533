"""Teaching what modules inside a network give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.features import features_of, paired
from paring.ops.features import (
    COMPARISONS,
    FeatureDistance,
    Gap,
    angles_gap,
    attention_gap,
    contrast_gap,
    distances_gap,
    similarities_gap,
    values_gap,
)
from paring.techniques import FineTune, PruneChannels
from paring.train.distiller import Distiller, Teaching
from paring.types import Task


class Net(nn.Module):
    """(rows, 6) -> (rows, 3), by way of a tuple, a module that is called twice, and one that is called never."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = Pair(), nn.Linear(8, 8), nn.Linear(8, 3)
        self.spare, self.ranks = nn.Linear(8, 8), Ranks()

    def forward(self, x: Tensor) -> Tensor:
        _, y = self.stem(x)
        y = torch.tanh(self.twice(torch.tanh(self.twice(y))))
        self.ranks(y)
        z: Tensor = self.head(y)
        return z


class Pair(nn.Module):
    """(rows, 6) -> whole numbers, and (rows, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return y.argmax(1), y


class Ranks(nn.Module):
    """Gives nothing that could be taught."""

    def forward(self, x: Tensor) -> Tensor:
        return x.argsort(1)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Net().eval()


def rows(count: int = 64) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def job_of(model: nn.Module, *, labels: Tensor | None = None) -> Job:
    inputs = rows()
    with torch.no_grad():
        evaluate = [(inputs, model(inputs).argmax(1))]
    return Job.of(Task(model, evaluate=evaluate, train=[(inputs, labels)]), threads=1)


def gap(student: nn.Module, teacher: nn.Module, module: str) -> float:
    """Between what a module gives in the one and in the other."""
    with torch.no_grad(), features_of(student, [module]) as ours, features_of(teacher, [module]) as theirs:
        student(rows()), teacher(rows())
    return sum(float(values_gap(one, other)) for one, other in paired(ours, theirs, COMPARISONS["values"].part))


@given(st.integers(0, 2**31), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.floats(1e-3, 1e3))
def test_the_distance_is_the_textbook_sum(seed: int, shape: list[int], scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(shape, generator=generator) * scale for _ in range(2))
    ours, theirs = student.flatten().double(), teacher.flatten().double()
    variance = float((theirs - theirs.mean()).square().mean()) or 1.0
    expected = sum((a - b) ** 2 for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)) / len(ours) / variance
    assert values_gap(student, teacher).item() == pytest.approx(expected, rel=1e-3)


def test_the_gradient_is_that_of_the_mean_square_and_zero_where_both_agree() -> None:
    teacher = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student = (teacher + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: values_gap(given, teacher), student)
    same = teacher.clone().requires_grad_()
    (slope,) = torch.autograd.grad(values_gap(same, teacher), same)
    assert not slope.any()


def test_a_teacher_that_gives_one_number_throughout_teaches_it() -> None:
    assert values_gap(torch.full((2, 3), 3.0), torch.full((2, 3), 1.0)).item() == pytest.approx(4.0)


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def slow(distance: FeatureDistance, student: np.ndarray, teacher: np.ndarray) -> float:
    """By the papers' words, row by row, in float64."""
    ours, theirs = (each.reshape(len(each), -1) for each in (student, teacher))
    rows = range(len(ours))
    if distance == "attention":
        maps = [(each**2).mean(1).reshape(len(each), -1) for each in (student, teacher)]
        unit = [[row / np.linalg.norm(row) for row in each] for each in maps]
        return float(np.mean([np.sum((a - b) ** 2) for a, b in zip(*unit, strict=True)]))
    if distance == "similarities":
        products = [[np.array([a @ b for b in each]) for a in each] for each in (ours, theirs)]
        unit = [[row / np.linalg.norm(row) for row in each] for each in products]
        return float(np.mean([np.sum((a - b) ** 2) for a, b in zip(*unit, strict=True)]))
    if distance == "distances":
        pairs = [(i, j) for i in rows for j in rows if i < j]
        far = [np.array([np.linalg.norm(each[i] - each[j]) for i, j in pairs]) for each in (ours, theirs)]
        gaps = far[0] / far[0].mean() - far[1] / far[1].mean()
        return float(np.mean([huber(gap) for gap in gaps.tolist()]))
    if distance == "angles":

        def cosine(each: np.ndarray, i: int, j: int, k: int) -> float:
            one, other = each[i] - each[j], each[k] - each[j]
            return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

        triples = [(i, j, k) for i in rows for j in rows for k in rows if len({i, j, k}) == 3]
        return float(np.mean([huber(cosine(ours, *three) - cosine(theirs, *three)) for three in triples]))
    scores = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in theirs] for a in ours]) / 0.1
    return float(np.mean([np.log(np.exp(scores[i]).sum()) - scores[i, i] for i in rows]))


SMOOTH: dict[FeatureDistance, Gap] = {
    "attention": attention_gap,
    "similarities": similarities_gap,
    "distances": distances_gap,
    "angles": angles_gap,
    "contrast": contrast_gap,
}


@pytest.mark.parametrize("distance", SMOOTH)
@given(st.integers(0, 2**31), st.integers(3, 6), st.sampled_from([(4, 3, 2), (5, 6)]))
def test_distances_are_those_of_their_papers(distance: FeatureDistance, seed: int, count: int, shape: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(count, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = slow(distance, *(_channels_first(each).numpy() for each in (student, teacher)))
    assert SMOOTH[distance](student, teacher).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def _channels_first(values: Tensor) -> Tensor:
    return values.movedim(-1, 1) if values.ndim == 3 else values


@pytest.mark.parametrize("distance", SMOOTH)
def test_gradients_are_finite_and_lead_to_the_teacher(distance: FeatureDistance) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 4, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    before = SMOOTH[distance](student, teacher)
    (slope,) = torch.autograd.grad(before, student)
    assert slope.any()
    # Two rows at one place have no direction.
    alike = torch.cat([student[:1], student[:1], student[2:]]).detach().requires_grad_()
    (between,) = torch.autograd.grad(SMOOTH[distance](alike, teacher), alike)
    assert torch.isfinite(between).all()
    after = SMOOTH[distance]((student - 1e-3 * slope / slope.norm()).detach(), teacher)
    assert after < before


@pytest.mark.parametrize("distance", [each for each in SMOOTH if each != "contrast"])
def test_a_student_that_is_alike_is_at_no_distance(distance: FeatureDistance) -> None:
    values = torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert SMOOTH[distance](values * 3, values).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", ["similarities", "distances", "angles"])
def test_a_turned_or_padded_student_is_alike_between_rows(distance: FeatureDistance) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    wider = torch.cat([values @ turn, torch.zeros(5, 3, dtype=torch.float64)], 1)
    assert SMOOTH[distance](wider, values).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", ["distances", "angles", "similarities"])
def test_a_batch_of_one_row_has_no_relations(distance: FeatureDistance) -> None:
    assert SMOOTH[distance](torch.ones(1, 3), torch.full((1, 3), 2.0)).item() == 0


def test_every_call_is_noted_in_order_and_hooks_are_gone_afterwards() -> None:
    model = net()
    with features_of(model, ["head", "twice", "stem"]) as noted:
        model(rows(5))
    assert [(each.module, tuple(each.values.shape)) for each in noted] == [
        ("stem", (5, 8)),
        ("twice", (5, 8)),
        ("twice", (5, 8)),
        ("head", (5, 3)),
    ]
    model(rows(5))
    assert len(noted) == 4


def test_features_come_near_the_original_s() -> None:
    teacher, student = net(), net(seed=1)
    technique = FineTune(epochs=60, learning_rate=0.05, features=("stem", "twice"))
    job = job_of(teacher)
    taught, untaught = technique.apply(student, job), replace(technique, features=()).apply(student, job)
    for module in technique.features:
        assert gap(taught, teacher, module) < 0.5 * gap(untaught, teacher, module)
    assert not taught.head._forward_hooks  # type: ignore[union-attr]


def test_their_weight_falls_to_zero_and_labels_alone_leave_it() -> None:
    teacher, student, labels = net(), net(seed=1), torch.arange(64) % 3
    job = job_of(teacher, labels=labels)
    weighed = Distiller(Teaching(label_weight=1.0, features=("stem",), feature_weight=8.0), job)
    alone = Distiller(Teaching(label_weight=1.0), job)
    begin, middle, end = (weighed(student, rows(), labels, share).item() for share in (0.0, 0.5, 1.0))
    assert end == pytest.approx(alone(student, rows(), labels, 0.0).item())
    assert begin - end == pytest.approx(8 * gap(student, teacher, "stem"), rel=1e-4)
    assert middle - end == pytest.approx(4 * gap(student, teacher, "stem"), rel=1e-4)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (("stam",), "features names 'stam', which the network does not have; the closest are stem"),
        (("stem", "spare"), "features names 'spare', which is not called as a module: leave it out"),
        (("ranks",), "features names 'ranks', which gives no floating-point tensor: leave it out"),
    ],
)
def test_modules_that_teach_nothing_are_named(features: tuple[str, ...], says: str) -> None:
    with pytest.raises(TechniqueError, match=says):
        FineTune(epochs=1, features=features).apply(net(), job_of(net()))


def test_an_unknown_module_is_told_before_any_time_is_spent() -> None:
    with pytest.raises(TechniqueError, match="features names 'stam'"):
        FineTune(features=("stam",)).check_fits(net(), job_of(net()).task)


def sequential() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def test_a_student_of_another_width_is_told_before_the_training() -> None:
    teacher = sequential()
    job = job_of(teacher)
    narrower: Any = PruneChannels(0.5).apply(teacher, job)
    shapes = r"which gives \(64, 4\), and \(64, 8\) in the original: leave it out, or compare by feature_distance="
    with pytest.raises(TechniqueError, match="features names '0', " + shapes):
        FineTune(epochs=1, features=("0",)).apply(narrower, job)
    FineTune(epochs=1, features=("4",)).apply(narrower, job)
    for distance in ("similarities", "distances", "angles"):
        FineTune(epochs=1, features=("0",), feature_distance=distance).apply(narrower, job)  # type: ignore[arg-type]


def test_rows_have_no_maps() -> None:
    with pytest.raises(TechniqueError, match="features names 'stem', which gives no maps, but rows"):
        FineTune(epochs=1, features=("stem",), feature_distance="attention").apply(net(), job_of(net()))


def test_a_student_that_calls_a_module_otherwise_is_told() -> None:
    with features_of(net(), ["twice"]) as noted:
        pass
    model = net()
    with features_of(model, ["twice"]) as theirs:
        model(rows())
    with pytest.raises(TechniqueError, match="not called as often"):
        paired(noted, theirs, COMPARISONS["values"].part)
