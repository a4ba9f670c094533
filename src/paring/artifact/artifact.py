"""Artifact: a folder that holds a network and all that is needed to run, verify and serve it.

    DIR/manifest.json   what it is (see Manifest)
    DIR/network.*       the network: ONNX or a torch.export archive, either packed to its true width (see `packed`)
    DIR/golden.npz      a few inputs and the outputs they gave: the proof that it runs right on another host

No file holds pickled objects, and every file's sha256 stands in the manifest.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paring.artifact.files import replacing_folder, sha256_of, write_json
from paring.artifact.manifest import Manifest
from paring.artifact.packed import PACKED
from paring.errors import ArtifactError
from paring.types import Arrays, TensorSpec

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
NETWORKS = ("network.onnx", "network.pt2", f"network.onnx{PACKED}", f"network.pt2{PACKED}")


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose files are as the manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Artifact:
        """Read an artifact. Raises ArtifactError where a file is missing, damaged or not listed."""
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file():
            inside = path / "best"
            hint = (
                f"its best artifact is {inside}" if (inside / MANIFEST).is_file() else "give a folder that paring wrote"
            )
            raise ArtifactError(f"{path} is no artifact, as it has no {MANIFEST}: {hint}.")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{file} can't be read: {error}.") from error
        artifact = cls(path, Manifest.from_json(values, str(file)))
        if verify:
            artifact.check_files()
        return artifact

    @classmethod
    def chosen(cls, path: Path | str) -> Artifact:
        """The artifact at `path`, or the best one of the output folder there. Raises ArtifactError as `open`."""
        best = Path(path) / "best"
        return cls.open(best if best.is_dir() else path)

    @classmethod
    def write(cls, path: Path, manifest: Manifest, network: Sequence[Path], golden: tuple[Arrays, Arrays]) -> Artifact:
        """Make an artifact of a network's files; an artifact that stands at `path` is replaced at the end."""
        inputs, outputs = golden
        with replacing_folder(path) as part:
            for file in network:
                shutil.copyfile(file, part / file.name)
            arrays = {f"input/{k}": v for k, v in inputs.items()} | {f"output/{k}": v for k, v in outputs.items()}
            with (part / GOLDEN).open("wb") as stream:
                np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
            files = {file.name: sha256_of(file) for file in sorted(part.iterdir())}
            manifest = replace(manifest, files=files)
            write_json(part / MANIFEST, manifest.to_json())
        return cls(path, manifest)

    def check_files(self) -> None:
        """Raise ArtifactError unless exactly the listed files stand here, unchanged."""
        for name, digest in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise ArtifactError(f"{self.path} is incomplete: {name} is missing. Copy the artifact again.")
            if sha256_of(file) != digest:
                raise ArtifactError(f"{file} is damaged or was changed: its sha256 differs. Copy it again.")
        present = {file.name for file in self.path.iterdir() if not file.name.startswith(".")}
        extra = sorted(present - set(self.manifest.files) - {MANIFEST})
        if extra:
            raise ArtifactError(f"{self.path} holds {extra[0]!r}, which the manifest does not list: remove it.")

    @property
    def network(self) -> Path:
        """The network's file; `packed.readable` gives the one that a backend loads."""
        for name in self.manifest.files:
            if name in NETWORKS:
                return self.path / name
        raise ArtifactError(f"{self.path} holds no network: its manifest lists none of {', '.join(NETWORKS)}.")

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of everything that running it needs: the network's files, without golden rows and manifest."""
        return sum((self.path / name).stat().st_size for name in self.manifest.files if name != GOLDEN)

    def golden(self) -> tuple[Arrays, Arrays]:
        """The proof: inputs and the outputs that they gave. Raises ArtifactError where they do not fit the network."""
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                inputs = {k.removeprefix("input/"): arrays[k] for k in arrays.files if k.startswith("input/")}
                outputs = {k.removeprefix("output/"): arrays[k] for k in arrays.files if k.startswith("output/")}
        except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{self.path / GOLDEN} can't be read: {error}.") from error
        signature = self.manifest.signature
        self._check_golden(inputs, signature.inputs)
        self._check_golden(outputs, signature.outputs)
        return inputs, outputs

    def _check_golden(self, arrays: Arrays, specs: tuple[TensorSpec, ...]) -> None:
        """Raise ArtifactError unless the arrays are those of the signature, with a row at least."""
        for spec in specs:
            array = arrays.get(spec.name)
            if array is None or array.ndim == 0 or not len(array):
                raise ArtifactError(f"{self.path / GOLDEN} holds no rows of {spec.name!r}: copy the artifact again.")
            if str(array.dtype) != spec.dtype:
                raise ArtifactError(
                    f"{self.path / GOLDEN} holds {spec.name!r} as {array.dtype}, and the network has {spec.dtype}: "
                    "copy the artifact again."
                )


def foreign_file(folder: Path) -> Path | None:
    """The first path in a folder that is no file of an artifact, or the folder where it is none; None where all are."""
    try:
        own = {MANIFEST, *Artifact.open(folder, verify=False).manifest.files}
    except ArtifactError:
        return folder
    return next((file for file in sorted(folder.iterdir()) if file.name not in own), None)
