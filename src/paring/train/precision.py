"""The number format and memory layout that train fastest on the device at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paring.data.batches import mapped
from paring.train.settings import Precision

BF16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def has_bf16(device: torch.device) -> bool:
    """True where the device multiplies bfloat16 in hardware: emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name, False) for name in BF16_CAPABILITIES)


def narrow_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """What is multiplied in beside float32; None for float32 alone."""
    if precision == "auto":
        return torch.bfloat16 if has_bf16(device) else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter lies."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def is_convolutional(model: nn.Module) -> bool:
    """True where 2-D convolutions run: they are faster with the channels last in memory."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def with_layout_(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The same network with its 4-D parameters laid out so."""
    return model.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def placed(values: Any, device: torch.device, channels_last: bool) -> Any:
    """The same structure on the device, 4-D tensors with the channels last where wanted."""

    def place(value: Tensor) -> Tensor:
        value = value.to(device)
        return value.contiguous(memory_format=torch.channels_last) if channels_last and value.ndim == 4 else value

    return mapped(values, place)
