"""PruneChannels as users see it: settings, what goes, what stays and why."""

from __future__ import annotations

import copy
import json
import os
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from paring.errors import TechniqueError
from paring.graph.channels import ChannelGroup, Member, channel_groups
from paring.graph.channels.atoms import Slot
from paring.ops.importance import Criterion, Evidence
from paring.techniques.prune_channels import PruneChannels
from tests.structures import HardCoded, Mobile, ResNet, TwoInputs, conv_bn, images, job_of, macs, trained


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ratio": 1.0}, "ratio=1.0 must be at least 0 and below 1"),
        ({"ratio": -0.1}, "ratio=-0.1 must be at least 0"),
        ({"ratio": float("nan")}, "ratio=nan must be a finite float"),
        ({"ratios": (("conv", 1.5),)}, "ratio of 'conv'=1.5 must be at least 0"),
        ({"round_to": 0}, "round_to=0 must be 1 or more"),
        ({"criterion": "magnitude_l3"}, "criterion='magnitude_l3' is unknown: choose magnitude_l"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        PruneChannels(**setting)  # type: ignore[arg-type]


def test_an_unknown_layer_is_refused_with_the_closest() -> None:
    model = trained(Mobile())
    with pytest.raises(TechniqueError, match=r"names 'block.expnd.0'.*\(block.expand.0"):
        PruneChannels(ratios=(("block.expnd.0", 0.5),)).apply(model, job_of(model, images()))


def test_a_frozen_layer_asked_for_by_name_is_refused_with_its_reason() -> None:
    model = trained(ResNet(project=False))
    with pytest.raises(TechniqueError, match=r"'stem.0' can't be pruned: pad in 'blocks.2' changes their number"):
        PruneChannels(ratios=(("stem.0", 0.5),)).apply(model, job_of(model, images()))


def test_half_the_channels_of_every_free_group_go_and_the_input_is_untouched() -> None:
    model = trained(ResNet(project=True)).train()
    before = copy.deepcopy(model.state_dict())
    smaller = PruneChannels(ratio=0.5, round_to=4).apply(model, job_of(model, images()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module.training for module in smaller.modules())
    assert smaller(images()).shape == (4, 5)
    assert macs(smaller, images()) < 0.3 * macs(model, images())


def test_the_weakest_channels_go() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)))
    weak = [1, 2, 5, 7, 8, 11, 13, 14]
    model[0].weight.detach()[weak] *= 1e-3
    smaller = PruneChannels(ratio=0.5).apply(model, job_of(model, torch.randn(4, 4)))
    strong = [channel for channel in range(16) if channel not in weak]
    torch.testing.assert_close(smaller.get_parameter("0.weight"), model[0].weight[strong])
    torch.testing.assert_close(smaller.get_parameter("2.weight"), model[2].weight[:, strong])


def test_ratios_name_any_layer_of_a_group_and_zero_keeps_it() -> None:
    model = trained(Mobile())
    technique = PruneChannels(ratio=0.5, ratios=(("block.depthwise.0", 0.75), ("stem.0", 0.0)))
    smaller = technique.apply(model, job_of(model, images()))
    assert smaller.get_submodule("block.expand.0").out_channels == 8
    assert smaller.get_submodule("stem.0").out_channels == 16


def test_layers_that_make_the_same_channels_have_one_ratio() -> None:
    model = trained(Mobile())
    technique = PruneChannels(ratios=(("block.expand.0", 0.5), ("block.depthwise.0", 0.25)))
    with pytest.raises(TechniqueError, match=r"gives 'block.expand.0' 0.5 and 'block.depthwise.0' 0.25, and they make"):
        technique.apply(model, job_of(model, images()))


@given(st.floats(0, 0.999), st.sampled_from([1, 4, 8, 16, 12]), st.integers(1, 80))
def test_kept_channels_are_a_multiple_and_never_fewer_than_asked(ratio: float, round_to: int, width: int) -> None:
    member = Member(Slot("layer.weight", 0), np.arange(width)[:, None], True, False)
    group = ChannelGroup("layer", ("layer",), (member,))
    kept = PruneChannels(ratio=ratio, round_to=round_to).kept(group, ratio, job_of(nn.Identity(), torch.zeros(2, 1)))
    assert kept == width or kept % round_to == 0
    assert 1 <= kept <= width
    assert kept >= width * (1 - ratio) - 1e-6
    assert kept - round_to < width * (1 - ratio) or kept == round_to


def test_a_function_of_the_weights_decides() -> None:
    def last_first(evidence: Evidence) -> Tensor:
        return -torch.arange(evidence.channels)

    model = trained(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)))
    technique = PruneChannels(criterion=last_first)
    smaller = technique.apply(model, job_of(model, torch.randn(4, 4)))
    torch.testing.assert_close(smaller.get_parameter("0.bias"), model[0].bias[:8])
    assert "last_first" in json.dumps(technique.settings())
    assert "last_first" in str(technique)


def signed(evidence: Evidence, sign: int) -> Tensor:
    return sign * evidence.weight.sum(1)


def test_criteria_of_one_name_or_of_none_are_told_apart() -> None:
    several: list[Criterion] = [
        lambda evidence: evidence.weight.sum(1),
        lambda evidence: -evidence.weight.sum(1),
        partial(signed, sign=1),
        partial(signed, sign=-1),
    ]
    techniques = [PruneChannels(criterion=criterion) for criterion in several]
    assert len({json.dumps(technique.settings()) for technique in techniques}) == 4
    assert len({str(technique) for technique in techniques}) == 4
    again = PruneChannels(criterion=lambda evidence: evidence.weight.sum(1))
    assert again.settings() == techniques[0].settings(), "the same function, written again"


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda evidence: torch.ones(3), r"gave shape \(3,\) for '0': it must return a tensor of shape \(16,\)"),
        (lambda evidence: 1.0, "gave float for '0'"),
        (lambda evidence: torch.full((16,), torch.nan), "gave nan for channel 0 of '0': it must be finite"),
    ],
)
def test_a_function_with_a_wrong_answer_is_refused(criterion: object, message: str) -> None:
    model = trained(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)))
    with pytest.raises(TechniqueError, match=message):
        PruneChannels(criterion=criterion).apply(model, job_of(model, torch.randn(4, 4)))  # type: ignore[arg-type]


def test_normalisation_factors_reach_the_criterion() -> None:
    model = trained(nn.Sequential(conv_bn(3, 16), nn.ReLU(), nn.Conv2d(16, 2, 1)))
    smaller = PruneChannels(criterion="norm_scale").apply(model, job_of(model, images()))
    strong = model[0][1].weight.abs().argsort()[8:].sort().values
    torch.testing.assert_close(smaller.get_parameter("0.1.weight"), model[0][1].weight[strong])


def test_coverage_counts_every_layer_and_says_why_the_rest_stayed() -> None:
    model = trained(ResNet(project=False, widths=(8, 16, 32)))
    job, technique = job_of(model, images()), PruneChannels(round_to=16)
    smaller = technique.apply(model, job)
    layers = {change.layer: change for change in technique.coverage(model, smaller, job).layers}
    assert layers["blocks.4.conv1"].reason == "weight 32x16x3x3 -> 16x16x3x3"
    assert layers["blocks.0.conv1"].reason == "ratio 0.5 in multiples of 16 keeps all 8 channels"
    assert layers["stem.0"].reason == "pad in 'blocks.2' changes their number from 8 to 16"
    assert layers["head"].reason == "they are the network's output"
    assert [name for name, change in layers.items() if change.changed] == [
        f"blocks.{block}.conv{conv}" for block in (4, 5) for conv in (1, 2)
    ]
    assert sum(change.macs for change in layers.values()) == macs(model, images())
    assert layers["blocks.4.conv1"].parameters == 32 * 16 * 9


def test_a_layer_that_lost_inputs_alone_says_why_its_outputs_stayed() -> None:
    class Scaled(nn.Module):
        """The mean of the hidden channels, by a number of them that is written down."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.hidden(self.first(x).relu())
            return cast(Tensor, self.head(hidden / hidden.shape[-1]))

    model, technique = trained(Scaled()), PruneChannels(0.5, round_to=1)
    job = job_of(model, torch.randn(4, 6))
    told = {layer.layer: layer.reason for layer in technique.coverage(model, technique.apply(model, job), job).layers}
    assert told["hidden"].startswith("weight 8x8 -> 8x4; outputs kept: without channels of 'hidden' output 0 is not")
    assert told["head"] == "they are the network's output"


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cells, self.head = nn.Linear(3, 16), nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.cells(self.embed(x.flatten(2).transpose(1, 2)))[0][:, -1]))


@pytest.mark.parametrize(
    ("layers", "layer", "reason"),
    [
        ([nn.Flatten(), nn.Linear(192, 5)], "1", "they are the network's output"),
        ([Recurrent()], "0.embed", "lstm in '0.cells' is an operator whose channels are not followed"),
        ([nn.Conv2d(3, 16, 1), nn.ConvTranspose2d(16, 16, 2, 2, groups=16)], "0", "conv_transpose2d in '1' is grouped"),
    ],
    ids=["one layer", "recurrent", "grouped transposed"],
)
def test_a_network_of_which_nothing_can_go_is_refused_with_the_layers(
    layers: list[nn.Module], layer: str, reason: str
) -> None:
    model = trained(nn.Sequential(*layers))
    job = job_of(model, images())
    for refused in (lambda: PruneChannels().apply(model, job), lambda: next(PruneChannels.variants(model, job))):
        with pytest.raises(TechniqueError, match=rf"^no channels can be removed \('{layer}': {reason}.*\)\.$"):
            refused()


def test_ratios_that_come_to_less_than_a_multiple_change_nothing_and_say_so() -> None:
    model = trained(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Linear(16, 5)))
    job, technique = job_of(model, images()), PruneChannels(0.25, round_to=8)
    same = technique.apply(model, job)
    coverage = technique.coverage(model, same, job)
    assert coverage.changed == 0
    assert coverage.layers[0].reason == "ratio 0.25 in multiples of 8 keeps all 16 channels"
    assert torch.equal(same(images()), model(images()))


def test_a_table_that_also_gives_the_answers_says_why_its_rows_stayed() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden, self.head = nn.Embedding(40, 32), nn.Linear(32, 32), nn.Linear(32, 40, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            return cast(Tensor, self.head(x + self.hidden(x).relu()))

    model, technique = trained(Tied()), PruneChannels()
    job = job_of(model, torch.randint(0, 40, (4, 7)))
    table = technique.coverage(model, technique.apply(model, job), job).layers[0]
    why = "embedding in 'embed' looks rows up by their number"
    assert table.reason == f"weight 40x32 -> 40x16; outputs kept: {why}"


def test_layers_too_narrow_for_a_multiple_are_the_reason_for_no_variants() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(TechniqueError, match="its widest layer has 4 channels, and what is kept is a multiple of 4"):
        next(PruneChannels.variants(model, job_of(model, torch.randn(4, 4))))


def test_a_layer_whose_channels_are_spelled_out_stays_and_the_rest_is_pruned() -> None:
    model = trained(HardCoded())
    job = job_of(model, images())
    smaller = PruneChannels().apply(model, job)
    conv, hidden, _ = PruneChannels().coverage(model, smaller, job).layers
    assert not conv.changed
    assert conv.reason.startswith("the network's own forward relies on the original number of channels (shape")
    assert hidden.reason == "weight 32x1024 -> 16x1024, bias 32 -> 16"
    with pytest.raises(TechniqueError, match="'conv' can't be pruned: the network's own forward relies"):
        PruneChannels(ratios=(("conv", 0.5),)).apply(model, job)


def test_where_no_group_passes_the_check_it_is_an_error_that_names_the_module() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16 * 64, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(F.relu(self.conv(x)).view(-1, 16 * 64))
            return y

    model = trained(Fixed())
    with pytest.raises(TechniqueError, match=r"PruneChannels can't be applied: module 'head' relies on|network's own"):
        PruneChannels().apply(model, job_of(model, images()))


def test_named_inputs() -> None:
    model = trained(TwoInputs())
    inputs = {"numbers": torch.randn(4, 6), "picture": images(channels=1)}
    smaller = PruneChannels().apply(model, job_of(model, inputs))
    assert smaller.get_submodule("mix").in_features == 16


def test_parts_are_the_groups_at_three_ratios_and_join_to_the_larger() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2)))
    job = job_of(model, torch.randn(4, 4))
    parts = list(PruneChannels().parts(model, job))
    assert [(part.layer, part.share) for part in parts] == [("0", 0.25), ("0", 0.5), ("0", 0.75), ("2", 0.5)]
    whole = parts[0].technique.joined(parts[2].technique).joined(parts[3].technique)
    assert whole.ratios == (("0", 0.75), ("2", 0.5))
    assert whole.apply(model, job)[0].out_features == 8


def test_many_groups_are_measured_at_one_ratio() -> None:
    layers = [layer for _ in range(36) for layer in (nn.Linear(16, 16), nn.ReLU())]
    model = trained(nn.Sequential(*layers, nn.Linear(16, 2)))
    parts = list(PruneChannels().parts(model, job_of(model, torch.randn(4, 16))))
    assert [part.share for part in parts] == [0.5] * 36


def test_of_many_groups_those_that_decide_on_most_are_measured_at_several_ratios() -> None:
    """A transformer's width is read and made by every block: half of it at once may be more than anybody wants."""
    model = trained(nn.Sequential(nn.Linear(6, 64), *(Added(64, 32) for _ in range(16)), nn.Linear(64, 2)))
    parts = list(PruneChannels().parts(model, job_of(model, torch.randn(4, 6))))
    assert [part.share for part in parts if part.layer == "0"] == [0.25, 0.5, 0.75]
    assert len({part.layer for part in parts}) == 17
    assert 34 <= len(parts) <= 36


class Added(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def test_parts_are_sizes_of_which_the_machine_may_run_one_faster() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 24), nn.ReLU(), nn.Linear(24, 2)))
    job = job_of(model, torch.randn(4, 4))
    widths = [part.technique.apply(model, job).get_submodule(part.layer) for part in PruneChannels().parts(model, job)]
    assert [layer.out_features for layer in widths] == [80, 76, 52, 48, 32, 28, 20, 16, 12, 8]


def test_parts_keep_a_multiple_that_was_set() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 2)))
    parts = list(PruneChannels(round_to=6).parts(model, job_of(model, torch.randn(4, 4))))
    assert [24 * (1 - part.share) for part in parts] == pytest.approx([18, 12, 6])
    assert all(part.technique.round_to == 6 for part in parts)


def test_variants_are_a_ladder_without_repetition() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)))
    job = job_of(model, torch.randn(4, 4))
    ladder = list(PruneChannels.variants(model, job))
    assert ladder[0] == PruneChannels(ratio=0.5, round_to=8)
    widths = [technique.apply(model, job).get_submodule("0").out_features for technique in ladder]
    assert sorted(widths) == [8, 12, 16, 20, 24]


def test_two_prunings_in_a_row() -> None:
    model = trained(ResNet(project=True))
    job = job_of(model, images())
    once = PruneChannels(round_to=4).apply(model, job)
    twice = PruneChannels(round_to=4).apply(once, job)
    assert macs(twice, images()) < macs(once, images())


def _resnet20(folder: Path) -> nn.Module:
    model = ResNet(project=False, widths=(16, 32, 64), depth=3)
    model.head = nn.Linear(64, 10)
    weights = torch.load(folder / "models/cifar10_resnet20/resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    renamed = {}
    for name, value in weights["state_dict"].items():
        parts = name.removeprefix("module.").split(".")
        if parts[0].startswith("layer"):
            parts[:2] = ["blocks", str(3 * (int(parts[0][-1]) - 1) + int(parts[1]))]
        else:
            parts[:1] = {"conv1": ["stem", "0"], "bn1": ["stem", "1"], "linear": ["head"]}[parts[0]]
        renamed[".".join(parts)] = value
    model.load_state_dict(renamed)
    return model.eval()


def test_resnet20_of_the_shared_weights() -> None:
    folder = os.environ.get("PARING_DATA")
    if not folder:
        pytest.skip("PARING_DATA is not set: the shared weights are not here")
    model, inputs = _resnet20(Path(folder)), images(size=32)
    smaller = PruneChannels(ratio=0.5).apply(model, job_of(model, inputs))
    assert (macs(model, inputs), macs(smaller, inputs)) == (40_551_040, 20_497_024)
    frozen = {group.name for group in channel_groups(model, inputs) if group.frozen}
    assert frozen == {"stem.0", "blocks.3.conv2", "blocks.6.conv2", "head"}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.cell = nn.Linear(8, 16), nn.LSTM(16, 16, batch_first=True)
        self.hidden, self.head, self.spare = nn.Linear(16, 16), nn.Linear(16, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.hidden(self.cell(self.into(x))[0][:, -1])))
        return y


def test_an_operator_that_is_not_known_stops_only_what_touches_it() -> None:
    model, inputs = trained(Recurrent()), torch.randn(4, 5, 8)
    job = job_of(model, inputs)
    smaller = PruneChannels().apply(model, job)
    layers = {change.layer: change for change in PruneChannels().coverage(model, smaller, job).layers}
    for name in ("into", "cell"):
        assert layers[name].reason == "lstm in 'cell' is an operator whose channels are not followed"
    assert layers["hidden"].reason == "weight 16x16 -> 8x16, bias 16 -> 8"
    assert layers["spare"].reason == "makes no more than one channel, or takes no part"
