"""The public surface: what `import paring` offers, and that it stays light."""

from __future__ import annotations

import inspect

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
