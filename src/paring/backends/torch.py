"""PyTorch: an exported program, eager or compiled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from paring.backends.base import Backend, NetworkFormat
from paring.backends.checks import in_one_sentence
from paring.backends.cores import fewer_threads, threads_taken
from paring.backends.splitting import Run, SplitSession, check_split
from paring.backends.torch_archive import read_archive
from paring.errors import BackendError
from paring.types import Arrays, Budget, Session, TensorSpec, named

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Torch(Backend):
    """A torch.export archive, run as it is or through torch.compile.

    `compiled` needs a C++ compiler on the machine that serves. `channels_last` keeps images as (batch, h, w, c) in
    memory. `threads` (0: all) are never more than the network is given. Loading sets their number for the process.
    """

    compiled: bool = False
    channels_last: bool = False
    micro_batch: int = 0
    threads: int = 0

    name: ClassVar[str] = "torch"
    format: ClassVar[NetworkFormat] = "torch"
    package: ClassVar[str | None] = "torch"

    def __post_init__(self) -> None:
        check_split(micro_batch=self.micro_batch, threads=self.threads)

    @classmethod
    def available(cls) -> str | None:
        """None where torch can be imported."""
        try:
            import torch  # noqa: F401
        except ImportError as error:
            return f"torch can't be imported ({in_one_sentence(error)}): pip install torch."
        return None

    def refusal(self) -> str | None:
        """Compiled, it needs a C++ compiler."""
        if self.compiled and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
            return "torch.compile needs a C++ compiler, and none is installed: install g++, or use compiled=False."
        return None

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load a torch.export archive. Raises BackendError where it is none, ArtifactError where it could run code."""
        if refusal := self.refusal():
            raise BackendError(refusal)
        import torch

        torch.set_num_threads(threads_taken(self.threads, threads))
        program = read_archive(network)
        try:
            # Guards are code that stands in the archive; the session checks its inputs itself.
            module: Any = program.module(check_guards=False).to(device)
            if self.channels_last:
                module = module.to(memory_format=torch.channels_last)
            module = torch.compile(module) if self.compiled else module
        except Exception as error:
            raise BackendError(f"torch can't load {network.name}: {in_one_sentence(error)}.") from error
        run = _lane(program, module, device, self.channels_last)
        return SplitSession(str(self), [run], _input_specs(program), micro_batch=self.micro_batch)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """Eager, on fewer threads, with channels last, and compiled."""
        yield cls()
        for fewer in fewer_threads(threads, budget.batch_size):
            yield cls(threads=fewer)
        yield cls(channels_last=True)
        yield cls(compiled=True)


def _lane(program: ExportedProgram, module: Any, device: str, channels_last: bool) -> Run:
    """A function that runs one piece, called the way the program was exported."""
    import torch

    spec = program.call_spec.in_spec
    assert spec is not None
    by_name = bool(spec.child(1).num_children)
    output_names = _output_names(program)

    def tensor(array: Any) -> Any:
        value = torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
        return value.to(memory_format=torch.channels_last) if channels_last and value.ndim == 4 else value

    def run(inputs: Arrays) -> Arrays:
        tensors = {name: tensor(array) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = module(**tensors) if by_name else module(*tensors.values())
        return {name: value.cpu().contiguous().numpy() for name, value in named(outputs, output_names).items()}

    return run


def _input_specs(program: ExportedProgram) -> tuple[TensorSpec, ...]:
    """Dict keys where the program takes names, else input or input_0, input_1, ...; sizes from the traced shapes."""
    spec = program.call_spec.in_spec
    assert spec is not None
    keys = spec.child(1).context
    users = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in users]
    names = list(keys) if keys else _numbered("input", len(values))
    return tuple(
        TensorSpec(
            name,
            str(value.dtype).removeprefix("torch."),
            tuple(size if isinstance(size, int) else None for size in value.shape),
        )
        for name, value in zip(names, values, strict=True)
    )


def _output_names(program: ExportedProgram) -> list[str]:
    """Dict keys where the program answers with names, else output or output_0, output_1, ..."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return list(spec.context) if issubclass(spec.type or tuple, dict) else _numbered("output", spec.num_leaves)


def _numbered(prefix: str, count: int) -> list[str]:
    return [prefix] if count == 1 else [f"{prefix}_{i}" for i in range(count)]
