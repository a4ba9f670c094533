"""Costs by layer, against counting by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from paring.graph.macs import LayerCost, layer_costs, weighted_layers
from tests.structures import Encoder, Mobile, TwoInputs, images, trained


def test_convolutions_and_linear_layers_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()
    )
    model.append(nn.Linear(32, 5))
    assert layer_costs(model.eval(), images()) == {
        "0": LayerCost(3 * 8 * 9 + 8, 4 * 4 * 8 * 3 * 9),
        "2": LayerCost(8 * 9 + 8, 2 * 2 * 8 * 9),
        "4": LayerCost(32 * 5 + 5, 32 * 5),
    }


def test_rows_of_the_sample_do_not_count() -> None:
    model = trained(Mobile())
    assert layer_costs(model, images(rows=1)) == layer_costs(model, images(rows=4))


def test_a_layer_that_runs_twice_counts_twice_and_its_parameters_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(self.layer(x))
            return y

    assert layer_costs(Twice(), torch.randn(2, 4)) == {"layer": LayerCost(20, 32)}


def test_what_a_module_computes_itself_is_its_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 4))
            self.inner = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(F.linear(x, self.weight))
            return y

    assert layer_costs(Own(), torch.randn(2, 4)) == {"": LayerCost(20, 20), "inner": LayerCost(18, 15)}


class Listed(nn.Module):
    """A vision transformer's shape: a parameter of the network's own, and layers in a list, which has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 4))
        self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers[1](self.layers[0][0](x + self.places))  # type: ignore[index]
        return y


def test_what_layers_in_a_list_compute_is_theirs() -> None:
    assert layer_costs(Listed(), torch.randn(2, 4)) == {
        "": LayerCost(4, 0),
        "layers.0.0": LayerCost(20, 16),
        "layers.1": LayerCost(20, 16),
    }


def test_a_weight_that_layers_share_counts_once() -> None:
    table, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = table.weight
    costs = layer_costs(nn.Sequential(table, head), torch.zeros(2, 3, dtype=torch.long))
    assert costs == {"0": LayerCost(28, 0), "1": LayerCost(0, 3 * 28)}


def test_fused_encoder_layers_are_counted_and_the_switch_is_put_back() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    costs = layer_costs(layer, torch.randn(2, 5, 8))
    assert costs["linear1"].macs == 5 * 8 * 16
    assert costs["self_attn"].macs >= 5 * 8 * 8 * 4
    assert torch.backends.mha.get_fastpath_enabled()


def test_named_inputs_and_the_total() -> None:
    model = trained(TwoInputs())
    inputs = {"numbers": torch.randn(4, 6), "picture": images(channels=1)}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**{name: value[:1] for name, value in inputs.items()})
    assert sum(cost.macs for cost in layer_costs(model, inputs).values()) == counter.get_total_flops() // 2


def test_norms_are_no_weighted_layers() -> None:
    assert set(weighted_layers(Encoder())) == {"embed", "query", "key", "value", "merge", "up", "down", "head"}
