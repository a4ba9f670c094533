"""The public surface: what `import paring` offers, and that it stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import paring


def test_every_public_name_resolves_and_is_described() -> None:
    assert paring.__all__ == sorted(paring.__all__)
    for name in paring.__all__:
        assert inspect.getdoc(getattr(paring, name)), f"paring.{name} has no docstring"


def test_techniques_are_public_by_name() -> None:
    import paring.techniques

    assert [
        getattr(paring.techniques, name).__name__ for name in paring.techniques.__all__
    ] == paring.techniques.__all__
    with pytest.raises(AttributeError, match="no attribute 'PruneEverything'"):
        _ = paring.techniques.PruneEverything


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = paring.optimise  # type: ignore[attr-defined]


def test_functions_stay_functions_after_their_rooms_are_imported() -> None:
    import paring.flow.bench
    import paring.flow.optimize
    import paring.flow.verify

    assert all(callable(f) for f in (paring.optimize, paring.bench, paring.verify))


def test_importing_paring_imports_nothing_heavy() -> None:
    code = "import sys, paring; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
