"""PruneWeights as users see it: how many weights go, which, where, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from paring.errors import TechniqueError
from paring.graph.weights import matrices
from paring.ops.sparsity import zero_share
from paring.techniques.prune_weights import PruneWeights
from tests.structures import images, job_of, trained


def net() -> nn.Sequential:
    return trained(  # type: ignore[return-value]
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 2, 2),
            nn.Flatten(),
            nn.Linear(4 * 64, 12),
            nn.Linear(12, 5, bias=False),
        )
    )


def zeros(model: nn.Module) -> dict[str, float]:
    return {name: float((value == 0).double().mean()) for name, value in model.named_parameters()}


X = images(6, size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0 must be at least 0 and below 1: the share of zeros"),
        ({"sparsity": -0.1}, "sparsity=-0.1 must be"),
        ({"sparsity": float("nan")}, "sparsity=nan must be a finite float or None"),
        ({"sparsity": "0.5"}, "sparsity='0.5' must be a finite float or None"),
        ({"sparsities": (("0", 2.0),)}, "sparsity of '0'=2.0 must be"),
        ({"threshold": 0.0}, "threshold=0.0 must be above 0"),
        ({"threshold": float("inf")}, "threshold=inf must be a finite float or None"),
        ({"scope": "all"}, "scope='all' is unknown: choose one of output, layer, global"),
        ({"criterion": "magnitude_l3"}, "criterion='magnitude_l3' is unknown: choose magnitude_l"),
        ({"pattern": "4x"}, "pattern='4x' is unknown: use '1x1' for single weights"),
        ({"sparsity": 0.5, "threshold": 0.1}, "sparsity=0.5 and threshold=0.1 each say how many weights go"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "sparsity=0.5 and pattern='2:4' each say how many weights go"),
        ({"pattern": "2:4", "sparsities": (("0", 0.5),)}, "pattern='2:4' leaves no choice to sparsities"),
        ({"threshold": 0.1, "pattern": "1x4"}, "threshold=0.1 is for single weights by their magnitude"),
        ({"threshold": 0.1, "scope": "output"}, "scope='output' tells among which .*, and threshold=0.1 is none"),
        ({"pattern": "2:4", "scope": "output"}, "scope='output' tells among which .*, and pattern='2:4' is none"),
        ({"threshold": 0.1, "criterion": "wanda"}, "threshold=0.1 is for single weights by their magnitude"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        PruneWeights(**settings)  # type: ignore[arg-type]


def test_the_smallest_of_every_layer_go_and_biases_and_norms_stay() -> None:
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    sparse = PruneWeights(0.75).apply(model, job_of(model, X))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in sparse.modules())
    for name, value in sparse.named_parameters():
        old = model.get_parameter(name)
        if value.ndim == 1:
            assert torch.equal(value, old)
        else:
            assert float((value == 0).float().mean()) == 0.75
            assert old[value == 0].abs().max() <= value[value != 0].abs().min()
            assert torch.equal(value[value != 0], old[value != 0])


def test_one_threshold_for_all_layers_or_one_share() -> None:
    model = net()
    sparse = PruneWeights(0.6, scope="global").apply(model, job_of(model, X))
    pairs = [(model.get_parameter(name), value) for name, value in sparse.named_parameters() if value.ndim > 1]
    old, new = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in zip(*pairs, strict=True))
    assert float((new == 0).float().mean()) == pytest.approx(0.6, abs=1e-3)
    assert old[new == 0].abs().max() <= old[new != 0].abs().min()
    assert len({round(share, 2) for share in zeros(sparse).values() if share}) > 1
    tau = float(old.detach()[new != 0].abs().min())
    same = PruneWeights(threshold=tau).apply(model, job_of(model, X))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), sparse.parameters(), strict=True))


def zeros_of_outputs(model: nn.Module, layer: str) -> set[int]:
    """How many weights of an output are zero, of all outputs."""
    (matrix,) = (each for each in matrices(model) if each.layer == layer)
    return set((matrix.rows(matrix.parameter) == 0).sum(1).tolist())


def test_of_every_output_as_many_weights_go_rounded_down() -> None:
    model = net()
    model[5].weight.detach().mul_(torch.logspace(-3, 3, 12)[:, None])
    model[6].weight.detach().fill_(1)
    job = job_of(model, X)
    sparse = PruneWeights(0.5, scope="output", vectors=True).apply(model, job)
    assert [zeros_of_outputs(sparse, layer) for layer in "0356"] == [{13}, {16}, {128}, {6}]
    assert zeros(sparse)["5.bias"] == 0.5
    assert len(zeros_of_outputs(PruneWeights(0.5).apply(model, job), "5")) > 1
    own = PruneWeights(0.5, scope="output", sparsities=(("5", 0.9),), layers=("0",))
    assert zeros_of_outputs(own.apply(model, job), "5") == {230}
    blocks = PruneWeights(0.5, scope="output", pattern="4x1").apply(model, job)
    assert [zeros_of_outputs(blocks, layer) for layer in "05"] == [{13}, {128}]


def test_wanda_among_the_weights_of_each_output_is_that_of_the_paper() -> None:
    """Sun et al. 2024, algorithm 1: sort |W| * ||X|| along the inputs, and the first half of each row goes."""
    model, rows = trained(nn.Sequential(nn.Linear(16, 6))), torch.randn(32, 16) * torch.logspace(-1, 1, 16)
    sparse = PruneWeights(0.5, scope="output", criterion="wanda").apply(model, job_of(model, rows))
    expected = model.get_parameter("0.weight").detach().clone()
    least = (expected.abs() * rows.norm(dim=0)).argsort(dim=1)[:, :8]
    assert torch.equal(sparse.get_parameter("0.weight"), expected.scatter(1, least, 0))


def test_layers_of_their_own_share_and_layers_left_alone() -> None:
    model = net()
    sparse = PruneWeights(0.5, sparsities=(("6", 0.9), ("5", 0.0))).apply(model, job_of(model, X))
    shares = zeros(sparse)
    assert (shares["0.weight"], shares["5.weight"], shares["6.weight"]) == (0.5, 0.0, 0.9)
    only = zeros(PruneWeights(0.5, layers=("5",)).apply(model, job_of(model, X)))
    assert [name for name, share in only.items() if share] == ["5.weight"]
    everything = zeros(PruneWeights(0.5, vectors=True).apply(model, job_of(model, X)))
    assert all(share == pytest.approx(0.5, abs=0.1) for share in everything.values())


def test_patterns_run_along_the_inputs_at_one_position_of_the_kernel() -> None:
    model = trained(nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 2)))
    job = job_of(model, images(2, channels=8, size=4))
    two_of_four = PruneWeights(pattern="2:4").apply(model, job)
    kept = two_of_four.get_parameter("0.weight") != 0
    assert (kept.reshape(4, 2, 4, 3, 3).sum(2) == 2).all()
    assert ((two_of_four.get_parameter("2.weight") != 0).sum(0) == 2).all()
    blocks = PruneWeights(0.5, pattern="1x4").apply(model, job)
    runs = (blocks.get_parameter("0.weight") != 0).reshape(4, 2, 4, 3, 3).sum(2)
    assert set(runs.unique().tolist()) == {0, 4}
    tall = PruneWeights(0.5, pattern="4x1").apply(model, job)
    assert set((tall.get_parameter("0.weight") != 0).sum(0).unique().tolist()) == {0, 4}


def test_a_pattern_that_does_not_divide_a_layer_leaves_it_alone_and_says_so() -> None:
    model, technique = net(), PruneWeights(0.5, pattern="1x4")
    job = job_of(model, X)
    told = {change.layer: change for change in technique.coverage(model, technique.apply(model, job), job).layers}
    assert not told["0"].changed
    assert told["0"].reason == "pattern 1x4 does not fit: 8 outputs of 3 inputs are not divided by blocks of 1x4"
    assert told["5"].reason == "50.0% of the weights are zero"
    with pytest.raises(TechniqueError, match="PruneWeights can't prune '0': pattern 1x4 does not fit: 8 outputs of 3"):
        PruneWeights(0.5, pattern="1x4", layers=("0", "5")).apply(model, job)
    with pytest.raises(TechniqueError, match="can't prune '0': pattern 1x7 does not fit"):
        PruneWeights(0.5, pattern="1x7").apply(model, job)


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (nn.Linear(4, 4), "layers names 'head', which shares its weight with 'body': name that one."),
        (
            nn.Embedding(4, 4),
            "layers names 'head', whose values are looked up, added or scale: use a layer that does (neck)",
        ),
    ],
)
def test_a_layer_with_the_weight_of_another_one_is_told_whose_it_is(first: nn.Linear | nn.Embedding, says: str) -> None:
    model = nn.Sequential()
    model.add_module("body", first)
    model.add_module("neck", nn.Linear(4, 4))
    head = nn.Linear(4, 4, bias=False)
    head.weight = first.weight
    model.add_module("head", head)
    with pytest.raises(TechniqueError, match=re.escape(says)):
        PruneWeights(0.5, layers=("head",)).apply(model, job_of(model, torch.randn(4, 4)))


@pytest.mark.parametrize("setting", [{"layers": ("hed",)}, {"sparsities": (("hed", 0.5),)}])
def test_an_unknown_layer_is_refused_with_the_closest(setting: dict[str, object]) -> None:
    model = nn.Sequential()
    model.add_module("head", nn.Linear(4, 4))
    with pytest.raises(TechniqueError, match=r"names 'hed', which holds no weights: use a layer that does \(head\)"):
        PruneWeights(**setting).apply(trained(model), job_of(model, torch.randn(2, 4)))  # type: ignore[arg-type]


def test_a_layer_that_would_lose_all_its_weights_is_named() -> None:
    model = net()
    model[6].weight.detach().mul_(1e-6)
    with pytest.raises(TechniqueError, match="leaves nothing of '6': remove less, or leave that layer out"):
        PruneWeights(threshold=1e-3).apply(model, job_of(model, X))


@pytest.mark.parametrize("amount", [{"threshold": 0.1}, {"sparsity": 0.5}, {"sparsity": 0.5, "scope": "global"}])
def test_biases_may_go_as_a_whole_and_what_was_zero_before_is_no_fault(amount: dict[str, Any]) -> None:
    """As the shifts of batch norms begin; here one layer's weights do too."""
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4), nn.Linear(4, 4)).eval()
    model[0].bias.detach().copy_(torch.linspace(0.01, 0.02, 16))
    model[4].weight.detach().zero_()
    job = job_of(model, torch.randn(4, 8))
    shares = zeros(PruneWeights(**amount, vectors=True).apply(model, job))
    assert shares["0.bias"] == (0.5 if amount == {"sparsity": 0.5} else 1)
    assert (shares["1.bias"], shares["4.weight"]) == (1, 1)
    assert shares["1.weight"] < 1


@pytest.mark.parametrize("layer", [1, 3])
def test_the_factors_of_a_norm_and_a_matrix_may_not_go(layer: int) -> None:
    model = trained(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)))
    model[layer].weight.detach().mul_(1e-6)  # type: ignore[index, operator, union-attr]
    job = job_of(model, torch.randn(4, 8))
    with pytest.raises(TechniqueError, match=f"leaves nothing of '{layer}': remove less, or leave that layer out"):
        PruneWeights(threshold=1e-3, vectors=True).apply(model, job)
    left = PruneWeights(0.5, scope="global", vectors=True).apply(model, job).get_parameter(f"{layer}.weight")
    assert 0 < int((left != 0).sum()) < left.numel()


def test_a_weak_layer_keeps_as_many_weights_as_it_has_outputs() -> None:
    model = net()
    model[6].weight.detach().mul_(1e-6)
    sparse = PruneWeights(0.9, scope="global").apply(model, job_of(model, X))
    assert int((sparse.get_parameter("6.weight") != 0).sum()) == 5
    weights = [value for value in sparse.parameters() if value.ndim > 1]
    kept = sum(int((value != 0).sum()) for value in weights) / sum(value.numel() for value in weights)
    assert kept == pytest.approx(0.1, abs=1e-3)


def test_zeros_that_are_there_count_and_a_sparse_network_stays_as_it_is() -> None:
    model = net()
    job = job_of(model, X)
    sparse = PruneWeights(0.8).apply(model, job)
    for share in (0.8, 0.6):
        again = PruneWeights(share).apply(sparse, job)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), sparse.parameters(), strict=True))
    told = PruneWeights(0.6).coverage(sparse, again, job)
    assert not any(layer.changed for layer in told.layers)
    assert told.layers[0].reason == "as it was: 79.6% of the weights are zero"
    assert zeros(PruneWeights(0.9).apply(sparse, job))["5.weight"] == pytest.approx(0.9, abs=1e-3)


def test_a_network_without_floating_point_weights_is_refused() -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(4, 4, dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.get_buffer("weight").float()

    model = Quantized()
    with pytest.raises(TechniqueError, match=r"no floating-point weights .* prune a network before it is quantized"):
        PruneWeights().apply(model, job_of(model, torch.randn(2, 4)))


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (
            lambda evidence: torch.ones(3, 3),
            r"gave shape \(3, 3\) for '5': it must return a tensor of shape \(12,\), or",
        ),
        (lambda evidence: evidence.weight * torch.nan, "gave nan for channel 0, weight 0, of '5': it must be finite"),
        (lambda evidence: torch.fft.fft(evidence.weight), "gave complex numbers for '5': return real ones, such as"),
        (lambda evidence: evidence.weight.sum(1), "the criterion judges whole channels of '5'"),
        (lambda evidence: evidence.wieght, "the criterion failed for '5' with AttributeError: .*'wieght'"),
    ],
)
def test_a_function_with_a_wrong_answer_is_refused(criterion: object, message: str) -> None:
    model = net()
    with pytest.raises(TechniqueError, match=message):
        PruneWeights(criterion=criterion, layers=("5",)).apply(model, job_of(model, X))  # type: ignore[arg-type]


def test_a_function_decides_and_is_told_by_name() -> None:
    def last_first(evidence: object) -> Tensor:
        return -torch.arange(12.0 * 256).reshape(12, 256)

    model, technique = net(), PruneWeights(0.5, criterion=last_first, layers=("5",))
    weight = technique.apply(model, job_of(model, X)).get_parameter("5.weight")
    assert not weight[6:].any()
    assert "last_first" in json.dumps(technique.settings())


@pytest.mark.parametrize("pattern", ["1x1", "2:4", "1x4"])
def test_reconstruction_brings_the_outputs_nearer(pattern: str) -> None:
    torch.manual_seed(0)
    grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
    model = trained(nn.Sequential(grouped, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 8)))
    rows = (torch.randn(256, 64) @ torch.randn(64, 64) / 8).reshape(256, 4, 4, 4)
    job, share = job_of(model, rows), None if ":" in pattern else 0.6
    layers = () if pattern == "1x1" else ("3",)

    def error(solved: bool) -> float:
        technique = PruneWeights(share, pattern=pattern, reconstruct=solved, layers=layers)
        return float((technique.apply(model, job)(rows) - model(rows)).detach().square().mean())

    assert error(True) < 0.7 * error(False)


def test_vectors_lose_weights_beside_matrices_that_are_reconstructed() -> None:
    model = net()
    sparse = PruneWeights(0.5, vectors=True, reconstruct=True, layers=("5",)).apply(model, job_of(model, X))
    assert zeros(sparse)["5.bias"] == 0.5
    kept = sparse.get_parameter("5.bias") != 0
    assert torch.equal(sparse.get_parameter("5.bias")[kept], model.get_parameter("5.bias")[kept])


def test_a_function_that_works_in_place_leaves_the_weights_alone() -> None:
    model = net()
    sparse = PruneWeights(0.5, criterion=lambda evidence: evidence.weight.abs_()).apply(model, job_of(model, X))
    kept = sparse.get_parameter("5.weight") != 0
    assert torch.equal(sparse.get_parameter("5.weight")[kept], model.get_parameter("5.weight")[kept])


def test_layers_that_share_a_weight_are_told_to_be_pruned_together() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    model[2].weight, model[3].weight = model[1].weight, model[0].weight  # type: ignore[assignment]
    job, technique = job_of(trained(model), torch.arange(6)[:, None]), PruneWeights(0.5)
    told = {layer.layer: layer for layer in technique.coverage(model, technique.apply(model, job), job).layers}
    assert [told[layer].changed for layer in "0123"] == [False, True, True, False]
    assert told["3"].reason == "its values are looked up, added or scale, or shared with a layer whose are"


def test_n_of_m_leaves_nothing_to_share_among_layers() -> None:
    with pytest.raises(TechniqueError, match=r"scope='global' tells among .* pattern='2:4' is none: leave scope out"):
        PruneWeights(pattern="2:4", scope="global")


def test_a_parametrized_weight_is_left_alone_where_zeros_would_not_come_through() -> None:
    model, technique = trained(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3))), PruneWeights(0.5)
    orthogonal(model[0])  # type: ignore[index, arg-type, operator]
    spectral_norm(model[1]).eval()  # type: ignore[index, arg-type, operator]
    job, name = job_of(model, torch.randn(4, 6)), "0.parametrizations.weight"
    sparse = technique.apply(model, job)
    assert [zero_share(layer.weight) for layer in sparse] == [0, 0.5, 0.5]  # type: ignore[union-attr, operator, arg-type]
    assert torch.equal(sparse[0].weight, model[0].weight)  # type: ignore[index, arg-type, operator, union-attr]
    told = {change.layer: change for change in technique.coverage(model, sparse, job).layers}
    reason = "the parametrization that makes its weight leaves no zeros"
    assert not told[name].changed
    assert told[name].reason.startswith(reason)
    with pytest.raises(TechniqueError, match=f"can't prune '{name}': {reason}"):
        PruneWeights(0.5, layers=(name,)).apply(model, job)


def test_the_scales_of_weight_normalisation_are_left_alone() -> None:
    model = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3))
    sparse = PruneWeights(0.5, vectors=True).apply(trained(model), job_of(model, torch.randn(4, 6)))
    shares = {name.rpartition(".")[2]: share for name, share in zeros(sparse).items() if "parametrizations" in name}
    assert shares == {"original0": 0.0, "original1": 0.5}
    assert float((sparse[0].weight == 0).double().mean()) == 0.5  # type: ignore[index, operator, union-attr]


def test_vectors_that_went_are_told() -> None:
    model, job = net(), job_of(net(), X)
    technique = PruneWeights(0.5, vectors=True, layers=("1",))
    changed = [layer for layer in technique.coverage(model, technique.apply(model, job), job).layers if layer.changed]
    assert [(layer.layer, layer.parameters, layer.macs) for layer in changed] == [("1", 16, 0)]
    assert changed[0].reason.startswith("50.0% of the weights are zero")


@pytest.mark.parametrize(
    ("technique", "shares"),
    [
        (PruneWeights(), {0.5, 0.8, 0.95}),
        (PruneWeights(0.3, scope="global", sparsities=(("0", 0.2),)), {0.5, 0.8, 0.95}),
        (PruneWeights(pattern="1:4"), {0.75}),
    ],
    ids=str,
)
def test_parts_are_the_zeros_of_one_layer_and_join_to_those_of_both(
    technique: PruneWeights, shares: set[float]
) -> None:
    model, job = net(), job_of(net(), X)
    parts = list(technique.parts(model, job))
    assert {part.share for part in parts} == shares
    for part in parts:
        found = zeros(part.technique.apply(model, job))
        assert found[f"{part.layer}.weight"] == pytest.approx(part.share, abs=0.02)
        assert not any(share for name, share in found.items() if not name.startswith(f"{part.layer}.w"))
    first, last = parts[0], parts[-1]
    both = zeros(first.technique.joined(last.technique).apply(model, job))
    assert {name.removesuffix(".weight") for name, share in both.items() if share} == {first.layer, last.layer}
    assert both[f"{last.layer}.weight"] == pytest.approx(last.share, abs=0.02)


def test_a_part_of_a_threshold_tells_the_share_that_it_takes() -> None:
    model, job = net(), job_of(net(), X)
    parts = list(PruneWeights(threshold=0.05).parts(model, job))
    assert parts
    for part in parts:
        assert zeros(part.technique.apply(model, job))[f"{part.layer}.weight"] == pytest.approx(part.share)


def test_blocks_are_judged_by_what_is_there_of_them() -> None:
    """A zero among weights takes nothing from them, and what is all zeros goes first."""
    model = nn.Sequential(nn.Linear(12, 4, bias=False)).eval()
    row = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.001, 0.002, 0.001, 0.002, 0.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        model[0].weight.copy_(row.expand(4, 12))
    job = job_of(model, torch.randn(8, 12))
    third = PruneWeights(0.34, pattern="1x4").apply(model, job)[0].weight  # type: ignore[index]
    assert torch.equal(third, model[0].weight)
    most = PruneWeights(0.67, pattern="1x4").apply(model, job)[0].weight  # type: ignore[index]
    assert (most != 0).sum() == (most == 0.1).sum() == 4


@pytest.mark.parametrize(
    ("fixed", "remedy"),
    [("prune", r"prune\.remove"), ("weight_norm", "remove_weight_norm"), ("spectral_norm", "remove_spectral_norm")],
)
def test_what_computes_its_weight_by_hooks_is_refused_also_once_it_has_run(fixed: str, remedy: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    if fixed == "prune":
        torch.nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    elif fixed == "weight_norm":
        with pytest.warns(FutureWarning):
            torch.nn.utils.weight_norm(model[0])
    else:
        torch.nn.utils.spectral_norm(model[0])
    model.eval()
    for _ in range(2):
        for attempt in (
            lambda: PruneWeights().check_fits(model, job_of(nn.Identity(), X).task),
            lambda: PruneWeights().apply(model, job_of(nn.Identity(), X)),
        ):
            with pytest.raises(TechniqueError, match=rf"'0' computes its 'weight' at each call, .*\.{remedy}\.$"):
                attempt()
        with torch.no_grad():
            model(torch.randn(2, 8))
