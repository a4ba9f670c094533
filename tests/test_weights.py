"""Which parameters of a network are weights, and which way round they lie: what is multiplied, not what is named so."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.errors import TechniqueError
from paring.graph.products import Layout
from paring.graph.weights import matrices
from paring.ops.sparsity import zero_share
from paring.techniques.prune_weights import PruneWeights
from tests.structures import images, job_of, trained


class Broadcast(nn.Module):
    """A normalisation over channels whose factors have four dimensions, as that of ConvNeXt V2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.square().sum((2, 3), keepdim=True).sqrt()
        return self.weight * (x * size / (size.mean(1, keepdim=True) + 1e-6)) + self.bias + x


class Vision(nn.Module):
    """A small vision transformer's parameters that nothing is multiplied with as a matrix, beside those that are."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = Broadcast(16)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.first = nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 5, 16))
        self.rows = nn.LayerNorm((5, 16))
        self.mix = nn.Parameter(torch.randn(16, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.norm(self.patches(x)) * self.scale).flatten(2).transpose(1, 2)
        x = self.rows(torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places)
        return self.head((x @ self.mix)[:, 0])


@pytest.mark.parametrize(
    "technique", [PruneWeights(0.5), PruneWeights(0.9, scope="global"), PruneWeights(pattern="2:4")]
)
def test_what_scales_or_is_added_is_left_alone_whatever_its_shape(technique: PruneWeights) -> None:
    model = trained(Vision())
    sparse = technique.apply(model, job_of(model, images()))
    zeros = {name for name, parameter in sparse.named_parameters() if (parameter == 0).any()}
    # The convolution reads three channels, which 2:4 does not divide.
    assert zeros == {"mix", "head.weight", *(() if technique.pattern == "2:4" else ("patches.weight",))}
    told = {each.layer: each.reason for each in technique.coverage(model, sparse, job_of(model, images())).layers}
    assert told["norm"] == "its values are looked up, added or scale, or shared with a layer whose are"


def test_unless_it_is_asked_for() -> None:
    model = trained(Vision())
    sparse = PruneWeights(0.5, vectors=True).apply(model, job_of(model, images()))
    shares = {name: zero_share(parameter.detach()) for name, parameter in sparse.named_parameters()}
    assert set(shares.values()) == {0.5}


def test_a_criterion_of_inputs_is_not_asked_about_what_is_no_matrix() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(5, 8))
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + self.places)

    model = trained(Added())
    sparse = PruneWeights(0.5, criterion="wanda").apply(model, job_of(model, torch.randn(4, 5, 8)))
    assert zero_share(sparse.get_parameter("layer.weight").detach()) == 0.5
    assert sparse.get_parameter("places").all()


class Rooted(nn.Module):
    """A weight of the network's own, a layer, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.layer = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.table(ids) @ self.weight)


@pytest.mark.parametrize("setting", ["layers", "sparsities"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("laier", "names 'laier', which holds no weights: use a layer that does (layer, '', the network itself)."),
        ("table", "names 'table', whose values are looked up, added or scale: use a layer that does (layer, "),
    ],
)
def test_unknown_names_are_refused_where_the_network_itself_is_a_layer(setting: str, name: str, says: str) -> None:
    model = trained(Rooted())
    prune = PruneWeights(**{setting: (name,) if setting == "layers" else ((name, 0.5),)})  # type: ignore[arg-type]
    with pytest.raises(TechniqueError, match=re.escape(says)):
        prune.apply(model, job_of(model, torch.randint(0, 9, (4, 3))))


def test_the_network_itself_can_be_named() -> None:
    model = trained(Rooted())
    sparse = PruneWeights(0.5, layers=("",)).apply(model, job_of(model, torch.randint(0, 9, (4, 3))))
    assert {name for name, each in sparse.named_parameters() if (each == 0).any()} == {"weight"}


class InputsFirst(nn.Module):
    """A linear layer whose weight is (in, out), as those of GPT-2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@pytest.mark.parametrize(
    "technique",
    [
        PruneWeights(pattern="2:4"),
        PruneWeights(0.5, scope="output"),
        PruneWeights(0.5, pattern="1x4"),
        PruneWeights(0.5, pattern="4x1"),
        PruneWeights(0.7, scope="global"),
    ],
    ids=str,
)
def test_a_layer_of_inputs_first_is_pruned_as_its_twin_is(technique: PruneWeights) -> None:
    model = trained(nn.Sequential(InputsFirst(16, 16), nn.ReLU(), InputsFirst(16, 8)))
    twin = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    for at in (0, 2):
        twin[at].load_state_dict({"weight": model[at].weight.detach().T, "bias": model[at].bias.detach()})
    x = torch.randn(4, 16)
    torch.testing.assert_close(model(x), twin(x))
    sparse, like = (technique.apply(each, job_of(each, x)) for each in (model, twin))
    for at in (0, 2):
        assert torch.equal(sparse[at].weight.T, like[at].weight)


@pytest.mark.parametrize(
    ("multiply", "shape", "layout"),
    [
        (lambda x, w: x @ w, (6, 5), "inputs-first"),
        (lambda x, w: F.linear(x, w), (5, 6), "outputs-first"),
        (lambda x, w: x @ w.T, (5, 6), "outputs-first"),
        (lambda x, w: torch.einsum("bk,km->bm", x, w), (6, 5), "inputs-first"),
        (lambda x, w: (w @ x.T).T, (5, 6), "outputs-first"),
        (lambda x, w: torch.stack([x, x]) @ w, (2, 6, 5), "inputs-first"),
        (lambda x, w: F.conv1d(x[..., None], w), (5, 6, 1), "convolution"),
        (lambda x, w: x @ w + x @ w.T, (6, 6), "vector"),
        (lambda x, w: x + w.sum(0), (5, 6), "vector"),
    ],
)
@pytest.mark.parametrize("square", [False, True])
def test_a_forward_shows_which_way_round_a_parameter_is_read(
    multiply: object, shape: tuple[int, ...], layout: Layout, square: bool
) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.randn(*(6 if square and size == 5 else size for size in shape)))

        def forward(self, x: Tensor) -> Tensor:
            assert callable(multiply)
            result: Tensor = multiply(x, self.values)
            return result

    (matrix,) = matrices(Own().eval(), torch.randn(3, 6), vectors=True)
    assert matrix.layout == layout


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_outputs_and_can_be_put_back(transposed: bool, groups: int) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(8, 16, 3, groups=groups, bias=False).eval()
    (matrix,) = matrices(layer)
    rows = matrix.rows(matrix.parameter.detach()).clone()
    assert rows.shape == matrix.shape == (16, 8 // groups * 9)
    assert matrix.inputs_at_once == 8 // groups
    assert torch.equal(matrix.like(rows), matrix.parameter)
    for output in (0, 5, 15):  # Without its row an output is nothing, and all others are what they were.
        left = matrix.like(rows.index_fill(0, torch.tensor(output), 0))
        with torch.no_grad():
            before = layer(images(channels=8))
            matrix.parameter.copy_(left)
            after = layer(images(channels=8))
            matrix.parameter.copy_(matrix.like(rows))
        assert not after[:, output].any()
        others = [at for at in range(16) if at != output]
        torch.testing.assert_close(after[:, others], before[:, others])


def test_a_transposed_depthwise_convolution_is_divided_as_a_depthwise_one_is() -> None:
    for layer in (nn.Conv2d(16, 16, 2, groups=16), nn.ConvTranspose2d(16, 16, 2, groups=16)):
        model = trained(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)))
        job = job_of(model, images(channels=16))
        with pytest.raises(TechniqueError, match="pattern 2:4 does not fit: 1 inputs"):
            PruneWeights(pattern="2:4", layers=("0",)).apply(model, job)
        sparse = PruneWeights(0.5, pattern="4x1", layers=("0",)).apply(model, job)
        assert zero_share(sparse.get_parameter("0.weight").detach()) == 0.5
        each = PruneWeights(0.5, scope="output", layers=("0",)).apply(model, job).get_parameter("0.weight")
        assert set((each == 0).sum((1, 2, 3)).tolist()) == {2}
