"""Criteria of pruning against their formulas, and what they are given against the plain way to compute it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.weights import matrices
from paring.ops.importance import (
    CRITERIA,
    Criterion,
    Evidence,
    Observed,
    activation_softmax,
    geometric_median,
    importance,
    magnitude_l1,
    magnitude_l2,
    norm_scale,
    weight_importance,
)
from paring.ops.reconstruction import dampened
from paring.ops.sparsity import zero_share
from paring.techniques.channel_plan import ChannelPlan
from paring.techniques.evidence import Observations
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.train.gradients import GRADIENT_ROWS, labelled_rows
from paring.types import Batch, Task
from tests.structures import images, trained


def test_magnitudes_by_hand() -> None:
    weight = torch.tensor([[3.0, -4.0, 12.0], [1.0, 0.0, 1.0]])
    evidence = Evidence(weight, torch.zeros(2, 0), torch.tensor([[-2.0], [0.5]]))
    assert magnitude_l1(evidence).tolist() == [[3.0, 4.0, 12.0], [1.0, 0.0, 1.0]]
    assert importance("magnitude_l1", evidence, "layer").tolist() == [19.0, 2.0]
    assert magnitude_l2(evidence).sum(1).sqrt().tolist() == pytest.approx([13.0, 2**0.5])
    assert norm_scale(evidence).tolist() == [2.0, 0.5]
    bare = Evidence.of(weight)
    assert torch.equal(importance("norm_scale", bare, "layer"), importance("magnitude_l2", bare, "layer"))


def test_those_near_the_geometric_median_go_first() -> None:
    evidence = Evidence.of(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.1], [-6.0, -8.0]]))
    distances = geometric_median(evidence)
    assert distances.tolist() == pytest.approx(
        [5 + 0.1 + 10, 5 + 15 + 4.9204, 0.1 + 4.9204 + 10.0802, 10 + 15 + 10.0802], 1e-4
    )


def observed(values: dict[Observed, Tensor]) -> Evidence:
    return Evidence.of(torch.tensor([[1.0, -2.0], [3.0, 0.5]]), values.__getitem__)


def test_criteria_of_observations_by_hand() -> None:
    evidence = observed(
        {
            "gradient": torch.tensor([[0.5, 0.5], [-1.0, 2.0]]),
            "squared_gradient": torch.tensor([[4.0, 1.0], [2.0, 0.0]]),
            "input_norm": torch.tensor([[10.0, 1.0], [10.0, 1.0]]),
            "inverse_hessian": torch.tensor([[0.5, 2.0], [0.5, 2.0]]),
        }
    )
    found = {name: weight_importance(name, evidence, "layer").tolist() for name in CRITERIA if name in WANTED}
    assert found == WANTED


WANTED = {
    "squared_gradient": [[4.0, 1.0], [2.0, 0.0]],
    "fisher": [[4.0, 4.0], [18.0, 0.0]],
    "taylor": [[0.5, 1.0], [3.0, 1.0]],
    "wanda": [[10.0, 2.0], [30.0, 0.5]],
    "obs": [[2.0, 2.0], [18.0, 0.125]],
}


def net() -> nn.Module:
    layers = (
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 2), groups=2, dilation=(1, 2)),
    )
    return trained(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)))


def data(rows: int = 12) -> list[tuple[Tensor, Tensor]]:
    return [(images(rows, size=8), torch.arange(rows) % 5)]


def test_gradients_are_those_of_single_samples() -> None:
    model, batches = net(), data()
    seen = Observations(model, Job.of(Task(model, batches, train=batches)))
    inputs, targets = batches[0]
    weight = model.get_parameter("3.weight")
    each = torch.stack(
        [
            torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), weight)[0]
            for x, y in zip(inputs, targets, strict=True)
        ]
    )
    torch.testing.assert_close(seen.of("gradient", "3.weight"), each.mean(0))
    torch.testing.assert_close(seen.of("squared_gradient", "3.weight"), each.square().sum(0))
    assert weight.grad is None


@pytest.mark.parametrize("layer", ["0", "3", "6"])
def test_the_products_of_inputs_predict_the_outputs(layer: str) -> None:
    """|W X|^2 over all positions is what the layer gives without its bias: so patches and weights have one order."""
    model, batches = net(), data()
    seen = Observations(model, Job.of(Task(model, batches)))
    given: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, outputs: given.append(outputs))
    model(batches[0][0])
    matrix = next(each for each in matrices(model) if each.layer == layer)
    outputs = given[0].movedim(1, -1).flatten(0, -2) - model.get_parameter(f"{layer}.bias")
    rows = matrix.rows(matrix.parameter.detach()).double()
    parts = zip(rows.chunk(matrix.groups), seen.gram(matrix), strict=True)
    energies = torch.cat([(part @ gram * part).sum(1) for part, gram in parts])
    torch.testing.assert_close(energies, outputs.double().square().sum(0), rtol=1e-4, atol=1e-4)
    norms = matrix.rows(seen.of("input_norm", matrix.name))
    diagonal = seen.gram(matrix).diagonal(dim1=1, dim2=2).sqrt().repeat_interleave(len(rows) // matrix.groups, 0)
    torch.testing.assert_close(norms.double(), diagonal.double())


def test_responses_are_the_logarithm_of_summed_exponentials() -> None:
    model, batches = net(), data()
    job = Job.of(Task(model, batches))
    seen = Observations(model, job)
    outputs = model[0](batches[0][0]).movedim(1, 0).flatten(1)
    torch.testing.assert_close(seen.of("response", "0.weight").flatten(1)[:, 0].float(), outputs.logsumexp(1))
    evidence = Evidence.of(model[0].weight.detach().flatten(1), lambda what: seen.of(what, "0.weight").flatten(1))
    assert float(activation_softmax(evidence).exp().sum()) == pytest.approx(1.0)


def test_every_criterion_prunes_channels_and_all_that_judge_weights_prune_weights() -> None:
    model, batches = net(), data()
    job = Job.of(Task(model, batches, train=batches))
    kept = {}
    for name in CRITERIA:
        smaller = PruneChannels(0.5, name, round_to=1).apply(model, job)
        kept[name] = smaller.get_parameter("0.weight").shape[0]
        if name in {"activation_softmax", "norm_scale", "geometric_median"}:
            with pytest.raises(TechniqueError, match="the criterion judges whole channels of '0'"):
                PruneWeights(0.5, criterion=name).apply(model, job)
        else:
            sparse = PruneWeights(0.5, criterion=name).apply(model, job)
            shares = [zero_share(matrix.parameter) for matrix in matrices(sparse)]
            assert shares == pytest.approx([0.5, 0.5, 0.5], abs=0.02)
    assert set(kept.values()) == {2}


def test_chance_is_the_same_for_the_same_seed() -> None:
    weight = torch.zeros(4, 5)
    one, same, other = (weight_importance("random", Evidence.of(weight, seed=seed), "layer") for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, "a criterion of gradients needs training data: give the task `train`, or choose a criterion of weights"),
        ([(images(4), None)], "a criterion of gradients needs labels, and `train` has none"),
        ([(images(4), torch.tensor([0, 1, 2, 77]))], "the gradient of the loss of one row can't be taken: IndexError"),
    ],
)
def test_gradients_that_cannot_be_taken_are_told(
    train: list[tuple[Tensor, Tensor | None]] | None, message: str
) -> None:
    model = net()
    job = Job.of(Task(model, data(), train=train))
    with pytest.raises(TechniqueError, match=message):
        PruneWeights(0.5, criterion="taylor").apply(model, job)


def test_a_layer_that_is_not_called_is_told() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.outer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(F.linear(x, self.inner.weight))

    model = trained(Own())
    job = Job.of(Task(model, [(torch.randn(4, 4), None)]))
    with pytest.raises(TechniqueError, match=r"'inner' is not called as a linear layer or .*: leave it out \(0\.0 in"):
        PruneWeights(0.5, criterion="wanda").apply(model, job)
    sparse = PruneWeights(0.5, criterion="wanda", sparsities=(("inner", 0.0),)).apply(model, job)
    assert torch.equal(sparse.get_parameter("inner.weight"), model.get_parameter("inner.weight"))
    assert zero_share(sparse.get_parameter("outer.weight")) == 0.5


class Read(nn.Module):
    """Words -> the mean of what they and their places stand for -> two scores."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.places = nn.Embedding(5, 8)
        self.inner = nn.Linear(8, 6)
        self.outer = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        hidden = hidden + self.outer(self.inner(hidden).relu())
        return self.head(hidden.mean(1))


def test_a_table_that_is_looked_up_is_a_layer_whose_inputs_are_zeros_and_a_one() -> None:
    model = trained(Read())
    ids = torch.tensor([[0, 1, 1, 3, 8], [2, 1, 8, 8, 8]])
    seen = Observations(model, Job.of(Task(model, [(ids, None)])))
    gram = torch.nn.functional.one_hot(ids, 9).double().flatten(0, 1)
    gram = gram.T @ gram
    assert torch.equal(seen.of("input_norm", "words.weight")[:, 0], gram.diagonal().sqrt())
    hessian = torch.linalg.inv(2 * dampened(gram)).diagonal()
    torch.testing.assert_close(seen.of("inverse_hessian", "words.weight")[:, 3], hessian)
    outputs = model.words(ids).flatten(0, 1).double()
    torch.testing.assert_close(seen.of("response", "words.weight")[4], outputs.logsumexp(0))


@pytest.mark.parametrize("criterion", ["wanda", "obs", "activation_softmax"])
def test_what_judges_by_inputs_judges_the_width_of_an_embedding(criterion: str) -> None:
    model = trained(Read())
    data = [(torch.randint(0, 9, (16, 5)), torch.randint(0, 2, (16,)))]
    smaller = PruneChannels(0.5, criterion, round_to=1).apply(model, Job.of(Task(model, data)))
    assert smaller.get_parameter("words.weight").shape == (9, 4)
    assert smaller.get_parameter("places.weight").shape == (5, 4)


def test_the_response_of_a_channel_is_the_mean_over_its_layers_however_many_inputs_they_have() -> None:
    model = trained(Read())
    job = Job.of(Task(model, [(torch.randint(0, 9, (16, 5)), None)]))
    plan = ChannelPlan.of(model, job)
    (width,) = (group for group in plan.groups if group.name == "words")
    seen = plan.observations
    tables = [seen.of("response", f"{layer}.weight")[0] for layer in ("words", "places")]
    each = [*tables, seen.of("response", "outer.weight")[:, 0]]
    torch.testing.assert_close(plan.evidence(width).response, torch.stack(each).mean(0), check_dtype=False)


def test_a_function_may_change_what_it_is_given_and_what_is_known_stays() -> None:
    def in_place(evidence: Evidence) -> Tensor:
        scores = evidence.squared_gradient
        scores *= evidence.weight.square()
        return scores

    model, batches = net(), data()
    job = Job.of(Task(model, batches, train=batches))
    first, again = (PruneWeights(0.5, criterion=in_place).apply(model, job) for _ in range(2))
    built_in = PruneWeights(0.5, criterion="fisher").apply(model, job)
    for one, two, three in zip(first.parameters(), again.parameters(), built_in.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda e: e.weight.to_sparse(), "sparse"),
        (lambda e: torch.quantize_per_tensor(e.weight, 0.1, 0, torch.qint8), "quantized"),
        (lambda e: e.weight.to("meta"), "meta"),
    ],
)
def test_an_answer_that_holds_no_plain_numbers_is_refused(answer: Criterion, kind: str) -> None:
    model = net()
    with pytest.raises(TechniqueError, match=f"the criterion gave a {kind} tensor for '0': return plain numbers"):
        PruneWeights(0.5, criterion=answer).apply(model, Job.of(Task(model, data())))


@pytest.mark.parametrize("sizes", [(3000,), (50,) * 60, (7, 200, 1, 300)])
def test_gradients_are_those_of_rows_from_all_over_the_data(sizes: tuple[int, ...]) -> None:
    """Training data may be in the order of its classes."""
    rows = torch.arange(sum(sizes)).float()[:, None]
    batches = [(part, (part[:, 0] / sum(sizes) * 10).long()) for part in rows.split(list(sizes))]
    seen = torch.cat([targets for _, targets in labelled_rows(Task(net(), data(), train=batches), GRADIENT_ROWS)])
    assert len(seen) == min(GRADIENT_ROWS, sum(sizes))
    assert set(seen.tolist()) == set(range(10))


def test_gradients_of_what_can_only_be_read_in_order_are_those_of_its_first_rows() -> None:
    class Stream:
        def __iter__(self) -> Iterator[Batch]:
            return iter([(torch.full((200, 1), float(at)), torch.full((200,), at)) for at in range(3)])

    (_, first), (_, second) = labelled_rows(Task(net(), data(), train=Stream()), GRADIENT_ROWS)
    assert first.tolist() + second.tolist() == [0] * 200 + [1] * 56
