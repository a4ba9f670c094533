"""Weights alone in few bits from what is typed to the served artifact: the bytes, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

import paring
from paring.backends.onnxruntime import OnnxRuntime
from paring.cli.chosen import chosen
from paring.types import Budget, Task
from tests.command_line import ROOT, refused, typed


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(20, 64), nn.Linear(64, 512), nn.Linear(512, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(self.embedding(ids).mean(1))))  # type: ignore[no-any-return]


def test_a_network_of_few_bits_is_found_packed_and_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Tokens().eval(), torch.randint(0, 20, (900, 8))
    with torch.no_grad():
        task = Task(model, [(ids, model(ids).argmax(1))])
    techniques = chosen("technique", "WeightQuantization(format=nf4, group_size=32, embeddings=False)")
    # What breaks a limit need not be beaten in speed.
    budget = Budget(objective="size", max_drop=0.5, max_size_bytes=60_000)
    found = paring.optimize(
        task, budget, out=tmp_path, time_limit_s=60, techniques=techniques, backends=[OnnxRuntime], progress=False
    )
    assert found.status == "improved", found.reason
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best"]["size_bytes"] < result["baseline"]["size_bytes"] / 3
    told = {layer["layer"]: layer["reason"] for each in result["coverage"] for layer in each["layers"]}
    assert told["embedding"] == "embeddings=False leaves it float"
    assert "no time" in told["hidden"]
    assert "nf4, a scale for each 32 weights: " in told["out"]
    (answer,) = paring.load(tmp_path / "best").run({"input": ids[:5].numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(answer, model(ids[:5]).numpy(), atol=0.2)


def test_a_typing_mistake_is_told_with_the_remedy(tmp_path: Path) -> None:
    run = ["optimize", ROOT / "examples" / "digits.py", "--out", tmp_path / "out", "--techniques"]
    assert "format='int9' is unknown: choose int8, " in refused(typed(*run, "WeightQuantization(format=int9)"))
