"""Channel groups are what can be removed together; removal gives what switching the channels off gives."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from paring.errors import TechniqueError
from paring.graph.channels import (
    ChannelGroup,
    Removal,
    channel_groups,
    check_removal,
    groups_of,
    proven_removal,
    remove_channels,
    trace,
)
from paring.types import Inputs
from tests.structures import (
    Dense,
    Encoder,
    HardCoded,
    Mobile,
    ResNet,
    TwoInputs,
    conv_bn,
    images,
    trained,
)


def by_name(model: nn.Module, inputs: Inputs) -> dict[str, ChannelGroup]:
    return {group.name: group for group in channel_groups(model, inputs)}


def every_other(groups: list[ChannelGroup]) -> dict[str, tuple[int, ...]]:
    return {group.name: tuple(range(0, group.channels, 2)) for group in groups if group.channels > 1}


def silenced(model: nn.Module, groups: list[ChannelGroup], removal: Removal) -> nn.Module:
    """The oracle: the same network with the makers, factors and offsets of the removed channels at zero."""
    result = copy.deepcopy(model)
    tensors = {**dict(result.named_parameters()), **dict(result.named_buffers())}
    for group in groups:
        for member in group.members:
            rows = torch.as_tensor(member.indices[list(removal.get(group.name, ()))].ravel())
            if not member.consumes:
                tensors[member.slot.tensor].detach().index_fill_(member.slot.dim, rows, 0.0)
    return result


def assert_same_as_silenced(model: nn.Module, inputs: Tensor) -> nn.Module:
    traced = trace(model, inputs)
    groups = [group for group in groups_of(traced) if not group.frozen]
    removal = every_other(groups)
    assert removal
    smaller = proven_removal(traced, model, [inputs], groups, removal, trains=True)
    with torch.no_grad():
        expected, found = silenced(model, groups, removal)(inputs), smaller(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    return smaller


def test_padded_shortcuts_freeze_the_stream_and_leave_the_inside_of_the_blocks() -> None:
    model = trained(ResNet(project=False))
    groups = by_name(model, images())
    assert [name for name, group in groups.items() if not group.frozen] == [f"blocks.{n}.conv1" for n in range(6)]
    assert groups["stem.0"].frozen == "pad in 'blocks.2' changes their number from 8 to 16"
    assert groups["blocks.4.conv2"].layers == ("blocks.4.conv2", "blocks.5.conv2")
    assert groups["head"].frozen == "they are the network's output"
    assert_same_as_silenced(model, images())


def test_projection_shortcuts_couple_all_that_is_added_up() -> None:
    model = trained(ResNet(project=True))
    groups = by_name(model, images())
    assert groups["blocks.2.conv2"].layers == ("blocks.2.conv2", "blocks.2.shortcut.0", "blocks.3.conv2")
    assert [group.name for group in groups.values() if group.frozen] == ["head"]
    assert_same_as_silenced(model, images())


def test_concatenated_layers_are_pruned_each_on_its_own() -> None:
    model = trained(Dense())
    groups = by_name(model, images())
    second = groups["layers.1.0"]
    assert second.layers == ("layers.1.0",)
    offsets = {member.slot.tensor: int(member.indices[0, 0]) for member in second.members if member.consumes}
    assert offsets == {"layers.2.0.weight": 24, "head.weight": 24}
    assert_same_as_silenced(model, images())


def test_depthwise_layers_and_gates_follow_the_layer_before_them() -> None:
    model = trained(Mobile())
    groups = by_name(model, images())
    assert groups["block.expand.0"].layers == ("block.expand.0", "block.depthwise.0", "block.excite")
    smaller = remove_channels(model, list(groups.values()), {"block.expand.0": (1, 5, 6)})
    depthwise = smaller.get_submodule("block.depthwise.0")
    assert isinstance(depthwise, nn.Conv2d)
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (29, 29, 29)
    assert_same_as_silenced(model, images())


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_a_depthwise_multiplier_goes_with_its_channel(multiplier: int) -> None:
    model = trained(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6 * multiplier, 3, groups=6), nn.ReLU(), nn.Conv2d(6 * multiplier, 2, 1)
        )
    )
    smaller = assert_same_as_silenced(model, images())
    depthwise = smaller.get_submodule("1")
    assert isinstance(depthwise, nn.Conv2d)
    assert (depthwise.groups, depthwise.out_channels) == (3, 3 * multiplier)


def test_groups_of_a_grouped_convolution_all_lose_as_much() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1)))
    groups = by_name(model, images())
    assert (groups["0"].channels, groups["0"].width) == (2, 4)
    assert (groups["1"].channels, groups["1"].width) == (3, 4)
    assert groups["1"].main.indices.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    grouped = assert_same_as_silenced(model, images()).get_submodule("1")
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (4, 4, 4)


def test_group_norm_loses_whole_groups_so_that_no_statistics_change() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 2, 1)))
    assert (by_name(model, images())["0"].channels, by_name(model, images())["0"].width) == (4, 3)
    norm = assert_same_as_silenced(model, images()).get_submodule("1")
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels) == (2, 6)


def test_flattening_gives_every_channel_its_columns() -> None:
    model = trained(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, 2))
    )
    columns = next(m for m in by_name(model, images())["0"].members if m.consumes)
    assert columns.indices[1].tolist() == list(range(36, 72))
    linear = assert_same_as_silenced(model, images()).get_submodule("3")
    assert isinstance(linear, nn.Linear)
    assert (linear.in_features, linear.out_features) == (72, 3)


def test_transposed_convolution_prelu_and_resizing_are_followed() -> None:
    layers = [nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.ConvTranspose2d(6, 4, 2, 2), nn.InstanceNorm2d(4, affine=True)]
    model = trained(nn.Sequential(*layers, nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 1)))
    smaller = assert_same_as_silenced(model, images())
    assert [smaller.get_submodule("1").num_parameters, smaller.get_submodule("3").num_features] == [3, 2]
    transposed = smaller.get_submodule("2")
    assert (transposed.in_channels, transposed.out_channels) == (3, 2)


class Chunks(nn.Module):
    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.up, self.down, self.gated = nn.Linear(6, 16), nn.Linear(8, 3), gated

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.up(x).chunk(2, -1)
        y: Tensor = self.down(F.glu(self.up(x)) if self.gated else left * right)
        return y


@pytest.mark.parametrize("gated", [False, True])
def test_both_halves_of_a_gate_lose_the_same_channels(gated: bool) -> None:
    group = by_name(trained(Chunks(gated)), torch.randn(4, 6))["up"]
    assert group.main.indices.tolist() == [[n, n + 8] for n in range(8)]
    assert_same_as_silenced(trained(Chunks(gated)), torch.randn(4, 6))


class Tied(nn.Module):
    """The table that makes the tokens' vectors also reads the last ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y: Tensor = self.head(x + self.hidden(x).relu())
        return y


def test_tied_parameters_shrink_once_and_stay_tied() -> None:
    model, tokens = trained(Tied()), torch.randint(0, 11, (4, 5))
    traced = trace(model, tokens)
    groups = groups_of(traced)
    removal = {"embed": (0, 3, 5)}
    smaller = remove_channels(model, groups, removal)
    check_removal(traced, model, smaller, tokens, groups, removal)
    assert smaller.get_parameter("embed.weight") is smaller.get_parameter("head.weight")
    assert tuple(smaller.get_parameter("head.weight").shape) == (11, 5)
    assert smaller.get_submodule("embed").embedding_dim == 5


def test_views_of_one_memory_are_left_alone() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)))
    model[1].weight = nn.Parameter(model[0].weight.detach().T.contiguous().T.repeat(1, 2))
    model[1].bias = nn.Parameter(model[0].bias.detach()[:])
    group = by_name(model, torch.randn(4, 4))["0"]
    assert group.frozen == "'0.bias' and '1.bias' are views of one memory"


def test_a_layer_norm_takes_its_statistics_over_what_is_left() -> None:
    model, tokens = trained(Encoder()), torch.randint(0, 11, (4, 5))
    traced = trace(model, tokens)
    groups = groups_of(traced)
    stream = next(group for group in groups if group.name == "embed")
    assert stream.layers == ("embed", "merge", "down")
    removal = {"embed": (2, 3, 9), "up": tuple(range(10))}
    smaller = remove_channels(model, groups, removal)
    check_removal(traced, model, smaller, tokens, groups, removal)
    assert smaller.get_submodule("norm1").normalized_shape == (13,)


class Heads(nn.Module):
    """Attention as people write it; each head has a width of 4."""

    def __init__(self, style: str, heads: int = 4, key_heads: int = 4) -> None:
        super().__init__()
        self.style, self.num_heads, self.key_heads = style, heads, key_heads
        width = heads * 4
        self.embed = nn.Embedding(11, 12)
        if style == "fused":
            self.qkv = nn.Linear(12, 3 * width)
        else:
            self.query, self.key, self.value = (nn.Linear(12, 4 * n) for n in (heads, key_heads, key_heads))
        self.bias = nn.Embedding(9, heads)
        self.merge = nn.Linear(width, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        rows, length = tokens.shape
        if self.style == "fused":
            parts = self.qkv(x).view(rows, length, 3, self.num_heads, 4).transpose(1, 3).unbind(2)
        else:
            parts = [layer(x).view(rows, length, -1, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        y = getattr(self, self.style)(*parts).transpose(1, 2)
        z: Tensor = self.merge(y.reshape(rows, length, -1))
        return z

    def fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)

    def grouped(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    def repeated(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, length, width = key.shape
        times = query.shape[1] // heads
        key, value = (
            part[:, :, None].expand(rows, heads, times, length, width).reshape(rows, -1, length, width)
            for part in (key, value)
        )
        return F.scaled_dot_product_attention(query, key, value)

    def plain(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        places = torch.arange(query.shape[2])
        bias = self.bias(places[:, None] - places[None] + query.shape[2] - 1).permute(2, 0, 1)[None]
        return (query @ key.transpose(-1, -2) * 0.5 + bias).softmax(-1) @ value


@pytest.mark.parametrize(
    ("style", "key_heads"), [("fused", 4), ("grouped", 2), ("repeated", 2), ("plain", 4), ("grouped", 4)]
)
def test_heads_of_attention_go_as_a_whole(style: str, key_heads: int) -> None:
    model, tokens = trained(Heads(style, key_heads=key_heads)), torch.randint(0, 11, (3, 5))
    groups = by_name(model, tokens)
    heads = groups["qkv" if style == "fused" else "query"]
    assert heads.channels == key_heads
    assert not heads.frozen
    smaller = assert_same_as_silenced(model, tokens)
    assert smaller.get_parameter("merge.weight").shape == (12, 8)


def test_a_module_that_counts_its_heads_is_told() -> None:
    model, tokens = trained(Encoder()), torch.randint(0, 11, (4, 5))
    traced = trace(model, tokens)
    groups, removal = groups_of(traced), {"query": (0,)}
    assert {group.name: group.counted for group in groups}["query"] == (("", 1),)
    smaller = proven_removal(traced, model, [tokens], groups, removal, trains=True)
    assert (smaller.heads, model.heads) == (1, 2)


class Conv1D(nn.Module):
    """A linear layer of one's own, inputs first, that keeps its size in an attribute."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.ones(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def test_a_layer_of_ones_own_keeps_its_size_in_line() -> None:
    model = trained(nn.Sequential(Conv1D(12, 6), nn.GELU(), Conv1D(4, 12)))
    smaller = assert_same_as_silenced(model, torch.randn(5, 6))
    assert (smaller[0].nf, model[0].nf) == (6, 12)


def test_named_inputs_and_two_outputs() -> None:
    model = trained(TwoInputs())
    inputs = {"numbers": torch.randn(4, 6), "picture": images(channels=1)}
    traced = trace(model, inputs)
    groups = groups_of(traced)
    removal = every_other([group for group in groups if not group.frozen])
    assert set(removal) == {"conv", "linear", "mix"}
    smaller = remove_channels(model, groups, removal)
    check_removal(traced, model, smaller, inputs, groups, removal)
    assert smaller(**inputs)["second"].shape == (4, 3)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.PixelShuffle(2), "pixel_shuffle in '1' is an operator whose channels are not followed"),
        (nn.Softmax(1), "softmax in '1' mixes them"),
        (nn.ConstantPad3d((0, 0, 0, 0, 0, 4), 0.0), "pad in '1' changes their number from 8 to 12"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_followed_freezes_with_a_reason(layer: nn.Module, reason: str) -> None:
    assert by_name(trained(nn.Sequential(nn.Conv2d(3, 8, 1), layer)), images())["0"].frozen == reason


@st.composite
def chains(draw: st.DrawFn) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([1, 1, 2, 4])) if width % 4 == 0 else 1
        outputs = width if groups == 4 and draw(st.booleans()) else 4 * draw(st.integers(1, 3))
        kernel = draw(st.sampled_from([1, 3]))
        layers.append(nn.Conv2d(width, outputs, kernel, padding=kernel // 2, groups=groups, bias=draw(st.booleans())))
        width = outputs
        layers.extend(draw(st.sampled_from([[], [nn.BatchNorm2d(width)], [nn.GroupNorm(2, width)], [nn.Identity()]])))
        layers.append(
            draw(st.sampled_from([nn.ReLU(), nn.GELU(), nn.Hardswish(), nn.ReLU(inplace=True), nn.MaxPool2d(1)]))
        )
    head = [nn.Conv2d(width, 2, 1)] if draw(st.booleans()) else [nn.Flatten(), nn.Linear(width * 16, 2)]
    return nn.Sequential(*layers, *head)


@settings(max_examples=20, deadline=None)
@given(chains(), st.integers(0, 1000))
def test_any_chain_pruned_is_the_chain_switched_off(chain: nn.Sequential, seed: int) -> None:
    model, inputs = trained(chain, seed).double(), images(size=4).double()
    traced = trace(model, inputs)
    groups = [group for group in groups_of(traced) if not group.frozen]
    generator = torch.Generator().manual_seed(seed)
    removal = {
        group.name: tuple(torch.randperm(group.channels, generator=generator)[: group.channels // 2].tolist())
        for group in groups
    }
    smaller = remove_channels(model, groups, removal)
    check_removal(traced, model, smaller, inputs, groups, removal)
    with torch.no_grad():
        torch.testing.assert_close(smaller(inputs), silenced(model, groups, removal)(inputs))


def test_the_check_notices_a_wrong_channel() -> None:
    model, inputs = trained(ResNet(project=True)), images()
    traced = trace(model, inputs)
    groups = groups_of(traced)
    wrong = remove_channels(model, groups, {"blocks.0.conv1": (1,)})
    with pytest.raises(TechniqueError, match=r"without channels of 'blocks.0.conv1' output 0 is not what it is"):
        check_removal(traced, model, wrong, inputs, groups, {"blocks.0.conv1": (2,)})


def test_the_check_names_the_module_that_spells_its_channels_out() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = HardCoded()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y

    model, inputs = trained(Outer()), images()
    traced = trace(model, inputs)
    groups = groups_of(traced)
    smaller = remove_channels(model, groups, {"inner.conv": (0,)})
    with pytest.raises(TechniqueError, match="module 'inner' relies on the original number of channels"):
        check_removal(traced, model, smaller, inputs, groups, {"inner.conv": (0,)})


def test_a_network_that_asks_its_data_is_refused() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(TechniqueError, match="can't be traced to find its channels"):
        trace(Asks().eval(), torch.randn(2, 3))


def test_frozen_channels_are_not_removed() -> None:
    model = trained(ResNet(project=False))
    with pytest.raises(TechniqueError, match=r"'stem.0' can't be removed: pad in 'blocks.2' changes"):
        remove_channels(model, channel_groups(model, images()), {"stem.0": (0,)})


def test_removal_keeps_the_original_and_what_is_frozen_for_training() -> None:
    model = trained(nn.Sequential(conv_bn(3, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    model[0][0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    smaller = remove_channels(model, channel_groups(model, images()), {"0.0": (0, 1)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in smaller.parameters()] == [False, True, True, True, True]
    assert smaller.get_submodule("0.1").running_var.shape == (6,)
