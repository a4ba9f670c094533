"""stories260K, a causal language model of the Llama family in plain torch, from llama2.c's files."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

EPSILON = 1e-5
ROTATION_BASE = 10000.0
BEGIN = 1
"""The token in front of every story."""


@dataclass(frozen=True)
class Shape:
    """The first integers of the file, in its order."""

    width: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    length: int

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.width // self.heads


class Norm(nn.Module):
    """Root mean square over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * self.weight


class Place(NamedTuple):
    """Where tokens stand: cosine and sine, each (length, head / 2), and a mask that is added, (length, all tokens)."""

    cosine: Tensor
    sine: Tensor
    mask: Tensor


class Past:
    """Keys and values, (rows, heads, length, head), of the tokens that a layer has seen."""

    def __init__(self) -> None:
        self.key = self.value = torch.empty(0)

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """With those of the tokens that follow."""
        if self.key.numel():
            key, value = torch.cat((self.key, key), 2), torch.cat((self.value, value), 2)
        self.key, self.value = key, value
        return key, value


class Layer(nn.Module):
    """Causal attention with fewer key heads than query heads, and a gated feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys = shape.key_heads * shape.head
        self.attention_norm, self.feed_norm = Norm(shape.width), Norm(shape.width)
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, keys, bias=False)
        self.value = nn.Linear(shape.width, keys, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)

    def forward(self, x: Tensor, place: Place, past: Past | None = None) -> Tensor:
        """x: (rows, length, width), behind the tokens that `past` holds, which learns of these."""
        x = x + self.attention(self.attention_norm(x), place, past)
        y = self.feed_norm(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))  # type: ignore[no-any-return]

    def attention(self, x: Tensor, place: Place, past: Past | None) -> Tensor:
        shape, length = self.shape, x.shape[1]
        each = shape.heads // shape.key_heads
        query = rotated(self.query(x).reshape(-1, length, shape.heads, shape.head), place).transpose(1, 2)
        key = rotated(self.key(x).reshape(-1, length, shape.key_heads, shape.head), place).transpose(1, 2)
        value = self.value(x).reshape(-1, length, shape.key_heads, shape.head).transpose(1, 2)
        if past is not None:
            key, value = past.extended(key, value)
        key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
        seen = torch.softmax(query @ key.transpose(2, 3) / shape.head**0.5 + place.mask, -1) @ value
        return self.output(seen.transpose(1, 2).reshape(-1, length, shape.width))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """Token ids (rows, length) -> logits of the tokens that follow, (rows, length, vocabulary)."""

    cosine: Tensor
    sine: Tensor
    mask: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        speeds = ROTATION_BASE ** (-torch.arange(0, shape.head, 2) / shape.head)
        angles = torch.arange(shape.length)[:, None] * speeds
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        self.register_buffer("mask", torch.full((shape.length, shape.length), -1e9).triu(1))
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.behind(ids, 0, [None] * len(self.layers))

    def behind(self, ids: Tensor, begin: int, pasts: Sequence[Past | None]) -> Tensor:
        """As forward; the ids follow `begin` tokens of which each layer has its past."""
        end = begin + ids.shape[1]
        place = Place(self.cosine[begin:end], self.sine[begin:end], self.mask[begin:end, :end])
        x = self.embedding(ids)
        for layer, past in zip(self.layers, pasts, strict=True):
            x = layer(x, place, past)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def rotated(x: Tensor, place: Place) -> Tensor:
    """(rows, length, heads, head): each pair of neighbours turned by its position's angle."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = place.cosine[:, None], place.sine[:, None]
    return torch.stack((real * cosine - imaginary * sine, real * sine + imaginary * cosine), -1).flatten(-2)


def folder() -> Path:
    """Where the weights and the tokens lie."""
    return Path(os.environ["PARING_DATA"]) / "models" / "stories260K"


def stories260k() -> Llama:
    """The trained network. Its head is the embedding, as a negative vocabulary in the file would deny."""
    content = (folder() / "stories260K.bin").read_bytes()
    shape = Shape(*struct.unpack_from("7i", content))
    model = Llama(shape)
    values = torch.from_numpy(np.frombuffer(content, np.float32, offset=struct.calcsize("7i")).copy())
    layers = list(model.layers)
    order: list[Tensor] = [model.embedding.weight]
    for name in ("attention_norm", "query", "key", "value", "output", "feed_norm", "gate", "down", "up"):
        order += [getattr(layer, name).weight for layer in layers]
    with torch.no_grad():
        for weight in (*order, model.norm.weight):
            weight.copy_(values[: weight.numel()].view_as(weight))
            values = values[weight.numel() :]
        model.head.weight.copy_(model.embedding.weight)
    return model.eval()


def pieces() -> list[bytes]:
    """What each token stands for."""
    content = (folder() / "tok512.bin").read_bytes()
    at, found = 4, []
    while at < len(content):
        _, length = struct.unpack_from("fi", content, at)
        found.append(content[at + 8 : at + 8 + length])
        at += 8 + length
    return found


def told(ids: Tensor) -> str:
    """The text of one row of tokens."""
    known = pieces()
    return b"".join(known[int(number)] for number in ids if number != BEGIN).decode(errors="replace")


@torch.inference_mode()
def written(model: Llama, begin: Tensor, length: int, temperature: float, seed: int = 0) -> Tensor:
    """The rows continued to `length` tokens: the likeliest at temperature 0, else drawn."""
    generator = torch.Generator().manual_seed(seed)
    pasts = [Past() for _ in model.layers]
    ids, fresh = begin, begin
    while ids.shape[1] < length:
        logits = model.behind(fresh, ids.shape[1] - fresh.shape[1], pasts)[:, -1]
        if temperature:
            fresh = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
        else:
            fresh = logits.argmax(-1, keepdim=True)
        ids = torch.cat((ids, fresh), 1)
    return ids
