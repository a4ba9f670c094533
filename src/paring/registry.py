"""Names for techniques and backends, as the command line takes them, and references to classes that have no name.

Nothing needs to be registered to be used: pass the object. A package gives its classes names through the entry points
`paring.techniques` and `paring.backends`. A class is imported when it is asked for, and not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Literal

from paring.errors import InputError

Kind = Literal["technique", "backend"]

BUILT_IN: Mapping[Kind, Mapping[str, str]] = MappingProxyType(
    {
        "technique": MappingProxyType(
            {
                "StaticQuantization": "paring.techniques.static_quantization:StaticQuantization",
                "HalfPrecision": "paring.techniques.half_precision:HalfPrecision",
                "DynamicQuantization": "paring.techniques.dynamic_quantization:DynamicQuantization",
                "WeightQuantization": "paring.techniques.weight_quantization:WeightQuantization",
                "SmoothQuant": "paring.techniques.smooth_quant:SmoothQuant",
                "CrossLayerEqualization": "paring.techniques.cross_layer_equalization:CrossLayerEqualization",
                "AWQ": "paring.techniques.awq:AWQ",
                "MixedPrecision": "paring.techniques.mixed_precision:MixedPrecision",
                "BitAllocation": "paring.techniques.bit_allocation:BitAllocation",
                "RemoveBlocks": "paring.techniques.remove_blocks:RemoveBlocks",
                "PruneChannels": "paring.techniques.prune_channels:PruneChannels",
                "PruneWeights": "paring.techniques.prune_weights:PruneWeights",
                "GradualPruning": "paring.techniques.gradual_pruning:GradualPruning",
                "IterativePruning": "paring.techniques.iterative_pruning:IterativePruning",
                "RegularisedTraining": "paring.techniques.regularised_training:RegularisedTraining",
                "FineTune": "paring.techniques.fine_tune:FineTune",
                "QuantizationAwareTraining": (
                    "paring.techniques.quantization_aware_training:QuantizationAwareTraining"
                ),
            }
        ),
        "backend": MappingProxyType(
            {
                "onnxruntime": "paring.backends.onnxruntime:OnnxRuntime",
                "openvino": "paring.backends.openvino:OpenVINO",
                "torch": "paring.backends.torch:Torch",
                "cuda": "paring.backends.accelerators:Cuda",
                "tensorrt": "paring.backends.accelerators:TensorRT",
            }
        ),
    }
)


def names(kind: Kind) -> tuple[str, ...]:
    """All names: the built-in ones first, then those of installed packages."""
    return tuple(_table(kind))


def find(kind: Kind, name: str) -> type[Any]:
    """The class of that name; upper case, dashes and underscores do not matter. Raises InputError with close names."""
    return reference(kind, name).load()


def reference(kind: Kind, name: str) -> Reference:
    """Where the class of that name is, without importing it. Raises InputError with close names."""
    table = _table(kind)
    plain = {_plain(known): known for known in table}
    known = plain.get(_plain(name))
    if known is None:
        close = get_close_matches(_plain(name), plain, n=3)
        hint = (
            f"did you mean {' or '.join(plain[match] for match in close)}?"
            if close
            else f"choose from {', '.join(table)}."
        )
        raise InputError(f"no {kind} is called {name!r}: {hint}")
    module, _, qualname = table[known].partition(":")
    return Reference(module, qualname, None)


def _table(kind: Kind) -> dict[str, str]:
    """Name -> "module:qualname". A built-in name can't be taken by a package."""
    installed = {point.name: point.value for point in entry_points(group=f"paring.{kind}s")}
    return {**BUILT_IN[kind], **{name: value for name, value in installed.items() if name not in BUILT_IN[kind]}}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _member(module: ModuleType, qualname: str) -> type[Any]:
    value: Any = module
    for part in qualname.split("."):
        value = getattr(value, part)
    if not isinstance(value, type):
        raise AttributeError(f"{qualname} is no class")
    return value


@dataclass(frozen=True)
class Reference:
    """Where a class can be found by another process: an importable module, or the file that defines it."""

    module: str
    qualname: str
    file: str | None

    @classmethod
    def of(cls, kind: type[Any]) -> Reference:
        """The reference to a class. Raises InputError for one that is defined inside a function."""
        if "<locals>" in kind.__qualname__:
            raise InputError(f"{kind.__qualname__} is defined inside a function: move it to the top level of its file.")
        try:
            file = inspect.getsourcefile(kind)
        except (TypeError, OSError):
            file = None
        return cls(kind.__module__, kind.__qualname__, None if file is None else str(Path(file).resolve()))

    def load(self) -> type[Any]:
        """The class. Raises InputError where its module or file can't be imported."""
        try:
            return _member(self._module(), self.qualname)
        except Exception as error:
            where = self.file or self.module
            raise InputError(
                f"{self.qualname} can't be imported from {where}: {type(error).__name__}: {error}."
            ) from error

    def to_json(self) -> dict[str, str | None]:
        """As plain values."""
        return asdict(self)

    def _module(self) -> ModuleType:
        """The module by name where that name leads to the same file, else the file itself."""
        if self.file is None:
            return importlib.import_module(self.module)
        loaded = sys.modules.get(self.module)
        if loaded is not None and _is_file(vars(loaded).get("__file__"), self.file):
            return loaded
        if loaded is None and self._importable():
            return importlib.import_module(self.module)
        return executed(self.module, self.file)

    def _importable(self) -> bool:
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            return False
        return spec is not None and _is_file(spec.origin, self.file)


def typed_name(function: FunctionType) -> str | None:
    """A function as the command line takes it: FILE.py:NAME, or module:NAME from a package.

    None for one that can't be found by its name, as lambdas and what is made inside another one. A path below the
    working directory is told from there.
    """
    module, name = sys.modules.get(function.__module__), function.__qualname__
    found = None if module is None else vars(module).get(name)
    # A file that was run again has another function of the same code.
    if module is None or not isinstance(found, FunctionType) or found.__code__ != function.__code__:
        return None
    if "." in module.__name__:
        return f"{module.__name__}:{name}"
    path = Path(vars(module).get("__file__") or "").resolve()
    if path.suffix != ".py":
        return None
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{name}"


def _is_file(path: str | None, file: str | None) -> bool:
    return path is not None and str(Path(path).resolve()) == file


def executed(name: str, file: str) -> ModuleType:
    """A Python file, by its absolute path, run as the module `name`; another module of that name stays.

    Its folder leads the import path from then on, as with `python FILE`, so that it can import its neighbours.
    """
    loaded = sys.modules.get(name)
    if loaded is not None and not _is_file(vars(loaded).get("__file__"), file):
        name = f"paring_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(Path(file).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # Dataclasses look their own module up while it is being executed.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
