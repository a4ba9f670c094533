"""From a candidate to a network file: techniques are applied left to right, and shared beginnings are made once."""

from __future__ import annotations

import json
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from paring.artifact.files import replacing_folder, write_json
from paring.artifact.packed import packed, stored
from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.runner import write_graph
from paring.backends.torch_archive import write_archive
from paring.data.batches import sample
from paring.data.job import Job
from paring.errors import DataError, ExportError, ParingError, TechniqueError, TrainDataError, in_words
from paring.graph.export import export_onnx, export_program, quiet_exporter
from paring.graph.signature import load_model
from paring.measure.size import network_files
from paring.techniques.base import Recipe, Technique, TrainingTechnique, check_order
from paring.train.weights import save_weights, with_weights
from paring.tune import Candidate
from paring.tune.candidate import digest, recipe_json
from paring.types import Coverage, Signature

RECENT_MODULES = 6
WEIGHTS = "weights.npz"


class NothingChangedError(TechniqueError):
    """A technique of the recipe changed nothing: the candidate is no trial."""


class BrokenError(TechniqueError):
    """A technique's own code raised something, or memory was short: no verdict on its settings or the network."""


@dataclass(frozen=True)
class Built:
    """A network's folder (one network file, perhaps with external data) and what each technique did to it."""

    folder: Path
    network: Path
    coverage: list[dict[str, Any]]


@dataclass(frozen=True)
class Networks:
    """Makes networks below `folder` for one job."""

    job: Job
    signature: Signature
    folder: Path
    _recent: OrderedDict[str, tuple[nn.Module, list[dict[str, Any]]]] = field(default_factory=OrderedDict)
    _refused: dict[str, Callable[[], TechniqueError]] = field(default_factory=dict)

    def build(self, candidate: Candidate) -> Built:
        """The candidate's network on disk. Raises TechniqueError, TrainDataError, ExportError, NothingChangedError."""
        target = self._network_folder(candidate)
        if not target.is_dir():
            check_order(candidate.recipe)
            exported = self.exported(candidate.module_part, candidate.backend)
            graph, made = None, list[dict[str, Any]]()
            if candidate.graph_part:
                graph, made = self._graph_techniques(onnx.load(exported / NETWORK_FILES["onnx"]), candidate)
            with replacing_folder(target) as part:
                name = NETWORK_FILES[candidate.backend.format]
                if graph:
                    write_graph(graph, part / name)
                else:
                    for file in network_files(exported / name):
                        shutil.copyfile(file, part / file.name)
                packed(part / name)
                write_json(part / "coverage.json", [*_read_coverage(exported), *made])
        return Built(target, stored(target / NETWORK_FILES[candidate.backend.format]), _read_coverage(target))

    def forget(self, seen: Iterable[Candidate], kept: Iterable[Candidate]) -> None:
        """Delete the networks of those seen that none of those kept shares; what is asked for again is made anew."""
        for key in {candidate.network_key for candidate in seen} - {candidate.network_key for candidate in kept}:
            shutil.rmtree(self.folder / "networks" / key, ignore_errors=True)

    def keep(self, kept: Iterable[Candidate]) -> None:
        """Delete what was made for any other than those kept, trainings too: when no search will go on from there."""
        kept = tuple(kept)
        modules = {self._module_folder(candidate.module_part) for candidate in kept if candidate.module_part}
        needed = {self._original_folder, *modules, *(self._network_folder(candidate) for candidate in kept)}
        for made in (*self.folder.glob("modules/*"), *self.folder.glob("networks/*")):
            if made not in needed:
                shutil.rmtree(made, ignore_errors=True)

    def original_graph(self) -> onnx.ModelProto:
        """The task's own network as a graph."""
        return onnx.load(self._exported_original() / NETWORK_FILES["onnx"])

    def exported(self, recipe: Recipe, backend: Backend) -> Path:
        """The folder with the exported forms of the network after the module techniques."""
        if not recipe:
            return self._exported_original()
        target = self._module_folder(recipe)
        if not target.is_dir():
            model, coverage = self._module_techniques(recipe)
            with replacing_folder(target) as part:
                self._export(model, part)
                write_json(part / "coverage.json", coverage)
                if isinstance(recipe[-1], TrainingTechnique):
                    save_weights(model, part / WEIGHTS)
        return target

    def _network_folder(self, candidate: Candidate) -> Path:
        return self.folder / "networks" / candidate.network_key

    @property
    def _original_folder(self) -> Path:
        return self.folder / "modules" / "original"

    def _module_folder(self, recipe: Recipe) -> Path:
        return self.folder / "modules" / digest(recipe_json(recipe))

    def _exported_original(self) -> Path:
        target = self._original_folder
        if not target.is_dir():
            with replacing_folder(target) as part:
                if isinstance(self.job.task.model, Path):
                    write_graph(
                        load_model(self.job.task.model, self.signature.input_names), part / NETWORK_FILES["onnx"]
                    )
                else:
                    self._export(self.job.task.model, part)
                write_json(part / "coverage.json", [])
        return target

    def _export(self, model: nn.Module, folder: Path) -> None:
        inputs, _ = sample(self.job.task.evaluate)
        program = export_program(model, inputs)
        write_graph(export_onnx(program, self.signature), folder / NETWORK_FILES["onnx"])
        with quiet_exporter():
            try:
                write_archive(program, folder / NETWORK_FILES["torch"])
            except NotImplementedError as error:
                raise ExportError(f"the network can't be written as an archive: {in_words(error)}.") from error

    def _module_techniques(self, recipe: Recipe) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The module after the recipe; what recent recipes began with is not made again."""
        if not recipe:
            return self.job.original, []
        key = digest(recipe_json(recipe))
        if key not in self._recent:
            model, coverage = self._module_techniques(recipe[:-1])
            trained = self._trained(recipe, model)
            if trained is None:
                begin_s = time.monotonic()
                after, made = self._step(recipe, model)
                made["apply_s"] = round(time.monotonic() - begin_s, 3)
            else:
                after, made = trained, _read_coverage(self._module_folder(recipe))[-1]
            self._recent[key] = after, [*coverage, made]
            while len(self._recent) > RECENT_MODULES:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def _trained(self, recipe: Recipe, model: nn.Module) -> nn.Module | None:
        """The network that a training made of this one, where it was kept: a killed run, or many trials since.

        What was trained once is not trained again to go on from it. None where that has to be.
        """
        file, technique = self._module_folder(recipe) / WEIGHTS, recipe[-1]
        if not (isinstance(technique, TrainingTechnique) and file.is_file()):
            return None
        try:
            shrunk = technique.shrunk(model, self.job)
        except Exception:  # It may be anybody's code: what it can't do is told by its training.
            return None
        return with_weights(shrunk, file)

    def _graph_techniques(
        self, graph: onnx.ModelProto, candidate: Candidate
    ) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
        coverage = []
        for count in range(len(candidate.module_part), len(candidate.recipe)):
            graph, made = self._step(candidate.recipe[: count + 1], graph)
            coverage.append(made)
        return graph, coverage

    def _step(self, recipe: Recipe, before: Any) -> tuple[Any, dict[str, Any]]:
        """What the last technique of a recipe makes of what the others made, and its coverage.

        One that can't is not asked again for the next backend, nor for the next recipe that begins so, unless it may
        be otherwise then: what a training comes to depends on the time that is left, and memory may be free again.
        """
        technique, key = recipe[-1], digest(recipe_json(recipe))
        if key in self._refused:
            raise self._refused[key]()
        try:
            after, coverage = _applied(technique, before, self.job)
            return after, _changed(technique, coverage)
        except TechniqueError as error:
            if _lacked_memory(error):
                raise BrokenError(str(error)) from error
            if not isinstance(technique, TrainingTechnique):
                # Not the error itself: its traceback would keep the network alive.
                self._refused[key] = partial(type(error), str(error))
            raise


def _applied(technique: Any, before: Any, job: Job) -> tuple[Any, Coverage]:
    """What the technique makes. It may be anybody's code: what it raises is a TechniqueError, but for the disk's.

    Raises TimeUpError where the time ended before it, TrainDataError where a training can't use the user's rows.
    """
    job.check_time()
    try:
        after = technique.apply(before, job)
        return after, technique.coverage(before, after, job)
    except DataError as error:
        # The rows that scores are taken on are checked elsewhere: what a technique can't read ends its own trial.
        kind = TrainDataError if isinstance(technique, TrainingTechnique) else TechniqueError
        raise kind(str(error)) from error
    except (ParingError, OSError):
        raise
    except Exception as error:
        raise BrokenError(f"{technique} failed: {in_words(error)}.") from error


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether that is what it says or came of. PyTorch has a class of errors for accelerators alone."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__
    return False


def _changed(technique: Technique, coverage: Coverage) -> dict[str, Any]:
    """The coverage as JSON; NothingChangedError where it is empty of changes."""
    if not coverage.changed:
        reasons = {layer.reason for layer in coverage.layers if layer.reason}
        raise NothingChangedError(f"{technique} changed nothing: {'; '.join(sorted(reasons)[:3]) or 'no layer fits'}.")
    return asdict(coverage)


def _read_coverage(folder: Path) -> list[dict[str, Any]]:
    values = json.loads((folder / "coverage.json").read_text(encoding="utf-8"))
    assert isinstance(values, list)
    return values
