"""Small networks of every structure that channel pruning and block removal must cope with, with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paring.data.job import Job
from paring.graph.macs import layer_costs
from paring.types import Inputs, Targets, Task


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with weights, biases and statistics that are all different and not the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        spread = 1.0 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        parameter.detach().copy_(torch.randn(parameter.shape, generator=generator) * spread)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            low = 0.5 if "var" in name else -0.5
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + low)
    return model.eval()


def job_of(model: nn.Module, inputs: Inputs, targets: Targets = None) -> Job:
    return Job.of(Task(model, [(inputs, targets)]))


def macs(model: nn.Module, inputs: Inputs) -> int:
    """Of all layers, for one row."""
    return sum(cost.macs for cost in layer_costs(model, inputs).values())


def images(rows: int = 4, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(1))


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Block(nn.Module):
    """A basic residual block: option A (strided slice and channel padding) or a projection as its shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad = (outputs - inputs) // 2
        self.stride = stride
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if project and (stride > 1 or self.pad) else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, project: bool, widths: tuple[int, ...] = (8, 16, 32), depth: int = 2) -> None:
        super().__init__()
        self.stem = conv_bn(3, widths[0])
        blocks: list[nn.Module] = []
        before = widths[0]
        for stage, width in enumerate(widths):
            for place in range(depth):
                blocks.append(Block(before, width, 2 if stage and not place else 1, project))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return y


class Dense(nn.Module):
    """Each layer reads all that came before, joined end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList([conv_bn(8 + 16 * n, 16) for n in range(3)])
        self.head = nn.Linear(56, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        y: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return y


class MobileBlock(nn.Module):
    """Expand, depthwise with squeeze-and-excite, project; residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = conv_bn(width, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, groups=hidden)
        self.squeeze = nn.Conv2d(hidden, 8, 1)
        self.excite = nn.Conv2d(8, hidden, 1)
        self.project = conv_bn(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depthwise(F.relu6(self.expand(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        z: Tensor = x + self.project(y * gate)
        return z


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.block = MobileBlock(16, 32)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.block(self.stem(x)))
        return y


class Encoder(nn.Module):
    """Tokens through encoder layers written with plain linear layers, as hub models are."""

    def __init__(self, width: int = 16, heads: int = 2, hidden: int = 32, pre_norm: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.merge = nn.Linear(width, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 4)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm1(x)
        parts = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        x = x + self.merge(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        z: Tensor = self.head(self.norm3(x).mean(1))
        return z


class TwoInputs(nn.Module):
    """A picture and numbers, by name; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.linear = nn.Linear(6, 16)
        self.mix = nn.Linear(32, 16)
        self.first, self.second = nn.Linear(16, 2), nn.Linear(16, 3)

    def forward(self, picture: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        y = torch.cat([self.conv(picture).amax((2, 3)), self.linear(numbers).tanh()], 1)
        y = F.relu(self.mix(y))
        return {"first": self.first(y), "second": self.second(y)}


class HardCoded(nn.Module):
    """Its view spells the number of channels out; another layer does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.hidden = nn.Linear(16 * 64, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.hidden(self.conv(x).view(x.shape[0], 16 * 64))))
        return y
