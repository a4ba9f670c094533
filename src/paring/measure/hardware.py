"""What a measurement was made on: figures hold for a machine that looks the same."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paring.backends.cores import usable_cores

ISA_FLAGS = frozenset(
    (
        *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
        *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
    )
)
"""Instruction sets that decide which kernels a runtime takes, and with them speed and, for int8, accuracy."""

PACKAGES = ("paring", "numpy", "onnx", "onnxruntime", "openvino", "torch")


def hardware() -> dict[str, Any]:
    """The fingerprint of this machine, as plain values that JSON can hold."""
    return {
        "cpu": _cpu_model(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "isa": _isa_flags(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def differences(recorded: dict[str, Any], here: dict[str, Any]) -> tuple[str, ...]:
    """What differs, in words, between the machine of a measurement and this one, operating system aside."""
    told = [
        f"{name}: {recorded.get(name)} there, {here.get(name)} here"
        for name in ("cpu", "machine", "cores", "isa")
        if recorded.get(name) != here.get(name)
    ]
    there, packages = recorded.get("packages", {}), here.get("packages", {})
    told += [
        f"{name}: {there.get(name, 'absent')} there, {packages.get(name, 'absent')} here"
        for name in sorted(set(there) | set(packages))
        if there.get(name) != packages.get(name)
    ]
    return tuple(told)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_info(key: str) -> str:
    """The first value of a key in Linux's list of processors, else nothing."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _isa_flags() -> list[str]:
    return sorted(ISA_FLAGS & set((_cpu_info("flags") or _cpu_info("Features")).split()))
