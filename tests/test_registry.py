"""Names of techniques and backends, and references to classes."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from paring import registry
from paring.backends.base import Backend
from paring.backends.onnxruntime import OnnxRuntime
from paring.errors import InputError
from paring.registry import Reference, find, names, reference
from paring.techniques.base import Technique


@pytest.mark.parametrize("name", names("backend"))
def test_every_backend_is_found_under_the_name_that_it_gives_itself(name):
    kind = find("backend", name)
    assert issubclass(kind, Backend)
    assert kind.name == name


@pytest.mark.parametrize("name", names("technique"))
def test_every_technique_is_found_under_its_class_name(name):
    kind = find("technique", name)
    assert issubclass(kind, Technique)
    assert kind.__name__ == name


@pytest.mark.parametrize("spelling", ["PruneChannels", "prune-channels", "prune_channels", "PRUNECHANNELS"])
def test_case_dashes_and_underscores_do_not_matter(spelling):
    assert find("technique", spelling).__name__ == "PruneChannels"


def test_a_name_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(InputError, match=r"no backend is called 'zzz': choose from onnxruntime, openvino, torch"):
        find("backend", "zzz")


def _installed(monkeypatch, *points):
    def entry_points(*, group):
        return [point for point in points if point.group == group]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_an_installed_package_can_add_a_name_but_not_take_one(monkeypatch):
    _installed(
        monkeypatch,
        EntryPoint("mine", "paring.backends.onnxruntime:OnnxRuntime", "paring.backends"),
        EntryPoint("torch", "thief:Torch", "paring.backends"),
    )
    assert find("backend", "mine") is OnnxRuntime
    assert reference("backend", "torch").module == "paring.backends.torch"
    assert "mine" not in names("technique")


def test_a_broken_package_is_named_and_only_when_it_is_asked_for(monkeypatch):
    _installed(monkeypatch, EntryPoint("broken", "no_such_module:Thing", "paring.backends"))
    assert "broken" in names("backend")
    with pytest.raises(InputError, match=r"Thing can't be imported from no_such_module: ModuleNotFoundError"):
        find("backend", "broken")


def test_a_reference_leads_back_to_the_class():
    found = Reference.of(OnnxRuntime)
    assert Reference(**found.to_json()).load() is OnnxRuntime


def test_a_reference_by_file_loads_a_class_that_no_path_leads_to(tmp_path):
    file = tmp_path / "a_task.py"
    file.write_text("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Thing:\n    size: int = 3\n")
    kind = Reference("a_task_elsewhere", "Thing", str(file)).load()
    assert kind(4).size == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [("raise RuntimeError('no luck')", "no luck"), ("Thing = 3", "Thing is no class"), ("", "no attribute 'Thing'")],
    ids=["raises", "no-class", "empty"],
)
def test_a_file_without_the_class_is_named_with_the_reason(tmp_path, content, reason):
    name = f"broken_task_{len(content)}"
    file = tmp_path / f"{name}.py"
    file.write_text(content)
    with pytest.raises(InputError, match=rf"Thing can't be imported from .*{name}.py: .*{reason}"):
        Reference(name, "Thing", str(file)).load()


def test_a_file_that_raised_is_executed_again_when_it_is_mended(tmp_path):
    file = tmp_path / "mended_task.py"
    file.write_text("class Thing:\n    pass\nraise RuntimeError('not yet')\n")
    with pytest.raises(InputError, match="not yet"):
        Reference("mended_task", "Thing", str(file)).load()
    file.write_text("class Thing:\n    mended = 'in a file of another length'\n")
    assert Reference("mended_task", "Thing", str(file)).load().mended


def test_two_files_of_one_name_are_told_apart(tmp_path):
    kinds = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "twin_task.py"
        file.write_text(f"class Thing:\n    where = {folder!r}\n")
        kinds.append(Reference("twin_task", "Thing", str(file)).load())
    assert [kind.where for kind in kinds] == ["first", "second"]
