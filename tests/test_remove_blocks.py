"""RemoveBlocks as users see it: what counts as a block, which go, and that the rest is as it was."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.data.job import Job
from paring.errors import TaskError, TechniqueError
from paring.graph.blocks import Passthrough
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques.remove_blocks import RemoveBlocks
from paring.types import Task
from tests.structures import Block, Mobile, ResNet, images, job_of, trained


class Body(nn.Module):
    """A residual wrapper around any body; its body keeps the shape too, and must not be taken for the block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def stack(depth: int = 4, width: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, width), nn.Sequential(*[Body(width) for _ in range(depth)]), nn.Linear(width, 3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"count": 0}, "count=0 must be 1 or more"),
        ({"blocks": ("a",), "count": 1}, "contradict each other"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        RemoveBlocks(**setting)  # type: ignore[arg-type]


def test_only_blocks_that_keep_the_shape_are_candidates() -> None:
    model = trained(ResNet(project=False))
    assert RemoveBlocks.candidates(model, job_of(model, images())) == ("blocks.0", "blocks.1", "blocks.3", "blocks.5")


def test_the_residual_wrapper_is_the_block_neither_its_body_nor_the_stage() -> None:
    model = trained(stack(3))
    assert RemoveBlocks.candidates(model, job_of(model, torch.randn(8, 5))) == ("1.0", "1.1", "1.2")


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layers_are_blocks(norm_first: bool) -> None:
    layers = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first) for _ in range(2)]
    model = trained(nn.Sequential(nn.Embedding(11, 16), *layers, nn.Linear(16, 3)))
    job = job_of(model, torch.randint(0, 11, (8, 5)))
    assert RemoveBlocks.candidates(model, job) == ("1", "2")


def test_a_network_without_blocks_has_no_candidates_and_no_variants() -> None:
    model = trained(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)))
    job = job_of(model, torch.randn(8, 5))
    assert RemoveBlocks.candidates(model, job) == ()
    with pytest.raises(TechniqueError, match="no block of the network keeps the shape of its input and passes it on"):
        next(RemoveBlocks.variants(model, job))
    with pytest.raises(TechniqueError, match="none is added to its own input: leave RemoveBlocks out"):
        RemoveBlocks(count=1).apply(model, job)


def test_named_blocks_give_way_to_the_identity_and_the_input_is_untouched() -> None:
    model, inputs = trained(stack()), torch.randn(8, 5)
    before = copy.deepcopy(model.state_dict())
    smaller = RemoveBlocks(blocks=("1.1", "1.3")).apply(model, job_of(model, inputs))
    first, blocks, last = model
    torch.testing.assert_close(smaller(inputs), last(blocks[2](blocks[0](first(inputs)))))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not isinstance(model[1][1], Passthrough)


def test_a_block_within_a_removed_block_goes_with_it() -> None:
    model, inputs = trained(stack()), torch.randn(8, 5)
    job, technique = job_of(model, inputs), RemoveBlocks(blocks=("1.0.body", "1.0", "1"))
    smaller = technique.apply(model, job)
    assert isinstance(smaller.get_submodule("1"), Passthrough)
    layers = {change.layer: change for change in technique.coverage(model, smaller, job).layers}
    assert layers["1.0.body.0"].reason == "removed with block '1'"
    assert not layers["0"].changed


def test_blocks_that_do_not_exist_or_do_not_fit_are_refused_with_the_closest() -> None:
    model = trained(ResNet(project=False))
    job = job_of(model, images())
    with pytest.raises(TechniqueError, match=r"'block.1', which the network does not have; the closest are blocks.1"):
        RemoveBlocks(blocks=("block.1",)).apply(model, job)
    with pytest.raises(
        TechniqueError, match=r"'blocks.2' does not keep the shape and type of its input; blocks.0, blocks.1"
    ):
        RemoveBlocks(blocks=("blocks.2",)).apply(model, job)


def test_the_block_that_does_least_goes_first() -> None:
    model, inputs = trained(stack()), torch.randn(64, 5)
    for block, size in ((2, 1e-4), (0, 1e-2)):
        model[1][block].body[2].weight.detach().mul_(size)
        model[1][block].body[2].bias.detach().zero_()
    job = job_of(model, inputs)
    for count, gone in ((1, {2}), (2, {0, 2})):
        smaller = RemoveBlocks(count=count).apply(model, job)
        assert {n for n, block in enumerate(smaller[1]) if isinstance(block, Passthrough)} == gone


def test_labels_decide_where_there_are_some() -> None:
    """The block that moves the outputs most is the one that spoils the loss: with labels it goes first."""
    torch.manual_seed(0)
    model, inputs = trained(stack(2)), torch.randn(64, 5)
    without_last = nn.Sequential(model[0], model[1][0], model[2])
    targets = without_last(inputs).argmax(1)
    model[1][1].body[2].bias.detach().mul_(10)
    model[1][0].body[2].weight.detach().mul_(0.01)
    labelled = Job.of(Task(model, [(inputs, targets)]))
    assert isinstance(RemoveBlocks().apply(model, labelled).get_submodule("1.1"), Passthrough)
    assert isinstance(RemoveBlocks().apply(model, job_of(model, inputs)).get_submodule("1.0"), Passthrough)


class Answers(nn.Module):
    """Two answers by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = stack(2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"scores": y, "sum": y.sum(1)}


def test_a_loss_that_can_not_read_the_answers_is_not_held_against_the_blocks() -> None:
    model, inputs, targets = trained(Answers()), torch.randn(8, 5), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(TaskError, match=r"the loss failed with AttributeError.*on targets of the calibration rows and"):
        RemoveBlocks().apply(model, job_of(model, inputs, targets))
    for job in (
        job_of(model, inputs),
        Job.of(Task(model, [(inputs, targets)], loss=lambda out, y: F.cross_entropy(out["scores"], y))),
    ):
        smaller = RemoveBlocks().apply(model, job)
        assert [isinstance(block, Passthrough) for block in smaller.get_submodule("body.1").children()].count(True) == 1


def test_shared_blocks_go_under_all_their_names() -> None:
    block = Body(6)
    model = trained(nn.Sequential(nn.Linear(5, 6), block, block, nn.Linear(6, 3)))
    job = job_of(model, torch.randn(8, 5))
    assert RemoveBlocks.candidates(model, job) == ("1",)
    smaller = RemoveBlocks(blocks=("2",)).apply(model, job)
    assert [isinstance(layer, Passthrough) for layer in smaller] == [False, True, True, False]


class Peeks(nn.Module):
    """Reads an attribute of one or either of its blocks, which the identity does not have."""

    def __init__(self, either: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = Block(3, 3, 1, False), Block(3, 3, 1, False), nn.Linear(3, 2)
        self.either = either

    def forward(self, x: Tensor) -> Tensor:
        looked_into = self.second if self.either and isinstance(self.first, Passthrough) else self.first
        y: Tensor = self.head(self.second(self.first(x)).mean((2, 3)) / looked_into.stride)
        return y


NO_STRIDE = r"AttributeError: 'Passthrough' object has no attribute 'stride'"


def test_a_block_that_others_look_into_is_no_candidate_and_coverage_says_why() -> None:
    model = trained(Peeks(either=False))
    job, technique = job_of(model, images()), RemoveBlocks(count=1)
    assert RemoveBlocks.candidates(model, job) == ("second",)
    smaller = technique.apply(model, job)
    assert isinstance(smaller.get_submodule("second"), Passthrough)
    reasons = {change.layer: change.reason for change in technique.coverage(model, smaller, job).layers}
    told = f"block 'first' can't give way to the identity, since then the network does not run ({NO_STRIDE})"
    assert reasons["first.conv1"] == f"its {told}"
    with pytest.raises(TechniqueError, match="count=2, but only 1 block of the network can be removed: give a smaller"):
        RemoveBlocks(count=2).apply(model, job)
    with pytest.raises(TechniqueError, match=re.escape(f"{told}: leave it out of blocks.")):
        RemoveBlocks(blocks=("first",)).apply(model, job)


def test_blocks_of_which_either_can_go_are_both_candidates_and_do_not_go_together() -> None:
    model = trained(Peeks(either=True))
    job = job_of(model, images())
    assert RemoveBlocks.candidates(model, job) == ("first", "second")
    with pytest.raises(TechniqueError, match=r"only 1 block can be removed \(without '(first|second)': .*'stride'\)"):
        RemoveBlocks(count=2).apply(model, job)
    with pytest.raises(TechniqueError, match="without blocks first, second the network does not run"):
        RemoveBlocks(blocks=("first", "second")).apply(model, job)


def encoder(layers: int) -> nn.Module:
    """As torch builds it: it looks into its first layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return trained(nn.Sequential(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), nn.Linear(8, 3)))


def test_the_first_layer_of_an_encoder_is_no_candidate() -> None:
    model = encoder(3)
    job = job_of(model, torch.randn(4, 6, 8))
    assert RemoveBlocks.candidates(model, job) == ("0.layers.1", "0.layers.2")
    assert [part.technique.blocks for part in RemoveBlocks().parts(model, job)] == [("0.layers.1",), ("0.layers.2",)]
    RemoveBlocks(count=2).apply(model, job)


def test_where_no_block_can_go_the_reason_is_that_of_the_block() -> None:
    model = encoder(1)
    job = job_of(model, torch.randn(4, 6, 8))
    told = "^block '0.layers.0' can't give way to the identity, since then the network does not run .*'self_attn'"
    with pytest.raises(TechniqueError, match=rf"{told}\)\.$"):
        next(RemoveBlocks.variants(model, job))
    with pytest.raises(TechniqueError, match=rf"{told}\)\.$"):
        next(RemoveBlocks().parts(model, job))
    with pytest.raises(TechniqueError, match=rf"{told}\): leave RemoveBlocks out\.$"):
        RemoveBlocks().apply(model, job)


def branch(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))


class Branches(nn.Module):
    """What its parts give is added to what they were given, outside of them; `left` is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right, self.head = nn.Linear(5, 8), branch(), branch(), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(3):
            x = x + self.scale * self.left(x)
        x += self.right(x)
        y: Tensor = self.head(x)
        return y


class Inline(nn.Module):
    """A pre-norm block whose layers are called one by one; the shape is kept by all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        y: Tensor = self.head(x)
        return y


def silenced(model: nn.Module, branch: str) -> nn.Module:
    """The network with the weights of the last layer of a branch at zero."""
    result = copy.deepcopy(model)
    last = list(result.get_submodule(branch).modules())[-1]
    for parameter in last.parameters():
        parameter.detach().zero_()
    return result


@pytest.mark.parametrize(("made", "branches"), [(Branches, ("left", "right")), (Inline, ("down",))])
def test_what_is_added_to_its_own_input_goes_without_a_trace(made: type[nn.Module], branches: tuple[str, ...]) -> None:
    model, inputs = trained(made()), torch.randn(8, 5)
    job = job_of(model, inputs)
    assert RemoveBlocks.candidates(model, job) == branches
    for name in branches:
        expected = silenced(model, name)(inputs)
        assert not torch.allclose(model(inputs), expected)
        torch.testing.assert_close(RemoveBlocks(blocks=(name,)).apply(model, job)(inputs), expected)
    technique = RemoveBlocks()
    changed = technique.coverage(model, technique.apply(model, job), job)
    assert changed.changed == (2 if made is Branches else 1)


def test_a_branch_that_is_returned_as_well_is_not_offered() -> None:
    class Returning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            added = self.branch(x)
            return self.head(x + added), added

    model = trained(Returning())
    assert RemoveBlocks.candidates(model, job_of(model, torch.randn(4, 8))) == ()


class Reads(nn.Module):
    """Python reads the shape of what its first part gives; with zeros without dimensions it does something else."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.embed, self.first, self.second, self.head = nn.Linear(5, 8), branch(), branch(), nn.Linear(8, 3)
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.first(x)
        x = x + y
        if self.style == "sizes":
            _, width = y.shape
            x = x / width
        elif y.dim() == 2:
            x = x + 1
        z: Tensor = self.head(x + self.second(x))
        return z


@pytest.mark.parametrize("style", ["dim", "sizes"])
def test_a_branch_of_which_python_reads_the_shape_is_not_offered_but_the_others_are(style: str) -> None:
    model, inputs = trained(Reads(style)), torch.randn(4, 5)
    job = job_of(model, inputs)
    assert RemoveBlocks.candidates(model, job) == ("second",)
    torch.testing.assert_close(RemoveBlocks().apply(model, job)(inputs), silenced(model, "second")(inputs))
    with pytest.raises(TechniqueError, match="block 'first' can't give way to nothing, since then the network does"):
        RemoveBlocks(blocks=("first",)).apply(model, job)
    technique = RemoveBlocks()
    reasons = {c.layer: c.reason for c in technique.coverage(model, technique.apply(model, job), job).layers}
    assert "its block 'first' can't give way to nothing, since then the network does" in reasons["first.1"]


def test_a_removed_branch_is_not_exported() -> None:
    model, inputs = trained(Inline()), torch.randn(8, 5)
    smaller = RemoveBlocks().apply(model, job_of(model, inputs))
    graph = export_onnx(export_program(smaller, inputs), signature_of(smaller, inputs)).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Gemm") == 2
    assert not {"Gelu", "Erf", "LayerNormalization"}.intersection(kinds)


class Gated(nn.Module):
    """What its part is given is read elsewhere too, so that the identity would change more than the part."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.embed, self.part, self.style = nn.Linear(5, 8), branch(), style
        self.head, self.wide = nn.Linear(8, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.part(x)
        if self.style == "gate":
            z: Tensor = self.head(x * y)
        elif self.style == "joined":
            z = self.wide(torch.cat([x, y], 1))
        else:
            z = self.head(x + y) + y[:, :3]
        return z


@pytest.mark.parametrize("style", ["gate", "joined", "added and read"])
def test_parts_for_which_neither_the_identity_nor_zero_is_neutral_are_not_offered(style: str) -> None:
    model = trained(Gated(style))
    assert RemoveBlocks.candidates(model, job_of(model, torch.randn(8, 5))) == ()


class Attends(nn.Module):
    """A block with two inputs, called by name; residual in its first."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, *, state: Tensor, memory: Tensor) -> Tensor:
        return state + F.relu(self.left(state) + self.right(memory))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Attends(), Attends()]), nn.Linear(4, 2)

    def forward(self, state: Tensor, memory: Tensor) -> Tensor:
        for block in self.blocks:
            state = block(state=state, memory=memory)
        y: Tensor = self.head(state)
        return y


def test_blocks_with_several_inputs_by_name_pass_the_first_on() -> None:
    model = trained(Decoder())
    inputs = (torch.randn(8, 4), torch.randn(8, 4))
    job = job_of(model, inputs)
    assert RemoveBlocks.candidates(model, job) == ("blocks.0", "blocks.1")
    smaller = RemoveBlocks(blocks=("blocks.0", "blocks.1")).apply(model, job)
    torch.testing.assert_close(smaller(*inputs), model.head(inputs[0]))


def test_coverage_says_why_layers_stayed() -> None:
    model = trained(Mobile())
    job, technique = job_of(model, images()), RemoveBlocks(count=1)
    smaller = technique.apply(model, job)
    covered = technique.coverage(model, smaller, job)
    layers = {change.layer: change for change in covered.layers}
    assert layers["block.expand.0"].reason == "removed with block 'block'"
    assert layers["stem.0"].reason == "is in no block that passes its input on in the same shape or is added to it"
    assert 0.7 < covered.share("macs") < 0.8
    assert technique.coverage(model, copy.deepcopy(model), job).changed == 0


def test_variants_go_up_to_half_of_the_blocks() -> None:
    model = trained(stack(5))
    job = job_of(model, torch.randn(8, 5))
    assert [technique.count for technique in RemoveBlocks.variants(model, job)] == [1, 2, 3]


def test_parts_are_single_blocks_and_join_in_one_order_whatever_comes_first() -> None:
    model = trained(ResNet(project=False))
    parts = list(RemoveBlocks().parts(model, job_of(model, images())))
    assert [part.technique.blocks for part in parts] == [("blocks.0",), ("blocks.1",), ("blocks.3",), ("blocks.5",)]
    one, other = parts[0].technique, parts[2].technique
    assert other.joined(one) == one.joined(other) == RemoveBlocks(blocks=("blocks.0", "blocks.3"))


def test_what_is_left_runs_in_eval_mode_and_can_be_pruned_again() -> None:
    model = trained(stack()).train()
    job = job_of(model, torch.randn(8, 5))
    once = RemoveBlocks(count=1).apply(model, job)
    assert model.training
    assert not once.training
    assert len(RemoveBlocks.candidates(once, job)) == 3
