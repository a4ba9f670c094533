"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paring.errors import OutputError, writing
from paring.types import Array

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_of(file: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replacing_file(file: Path) -> Iterator[BinaryIO]:
    """A stream under a temporary name that takes the file's place at the end; on an error the old one stays.

    Raises OutputError where the disk refuses.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
    finally:
        with suppress(OSError):  # Gone, or in a folder that never was.
            part.unlink()


def write_text(file: Path, text: str) -> Path:
    """Write a file whole or not at all, and return it. Raises OutputError where the disk refuses."""
    with replacing_file(file) as stream:
        stream.write(text.encode())
    return file


def write_json(file: Path, values: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(file, json.dumps(values, indent=2) + "\n")


def write_array(file: Path, array: Array) -> Path:
    """Write a .npy file whole or not at all, and return it. Raises OutputError where the disk refuses."""
    with replacing_file(file) as stream:
        _save(stream, array)
    return file


def write_scratch_array(file: Path, array: Array) -> Path:
    """Write a .npy file that nobody needs after a crash, and return it. Raises OutputError where the disk refuses."""
    with writing(file), file.open("wb") as stream:
        _save(stream, array)
    return file


def _save(stream: BinaryIO, array: Array) -> None:
    """By way of memory: NumPy's own writing to a file loses the reason why the disk refuses."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    stream.write(content.getbuffer())


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OutputError where it is damaged."""
    return parsed_object(file.read_bytes(), str(file))


def parsed_object(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises OutputError that names `where` it stands if it is none."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise OutputError(f"{where} is damaged ({error}): pass --fresh to `paring optimize` to begin anew.") from error
    if not isinstance(value, dict):
        raise OutputError(
            f"{where} holds a {type(value).__name__} and not an object: pass --fresh to `paring optimize`."
        )
    return value


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object a line, to which lines are added. A line that was cut short was never written."""

    file: Path

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; [] where there is no file. Raises OutputError that names the line which is damaged."""
        if not self.file.is_file():
            return []
        lines = self.file.read_bytes().split(b"\n")[:-1]
        return [parsed_object(line, f"{self.file}, line {number}") for number, line in enumerate(lines, 1) if line]

    def append(self, row: dict[str, Any]) -> None:
        """Add a line; it is on disk when this returns. Raises OutputError where the disk refuses."""
        with writing(self.file), self.file.open("a+b") as stream:
            _cut_to_whole_lines(stream)
            stream.write(json.dumps(row).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace all lines at once."""
        write_text(self.file, "".join(json.dumps(row) + "\n" for row in rows))


def _cut_to_whole_lines(stream: BinaryIO) -> None:
    """A process that was killed in the midst of a line has left a part of it at the end."""
    stream.seek(0)
    stream.truncate(stream.read().rfind(b"\n") + 1)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place at the end; on an error the old one stays as it was.

    Raises OutputError where the disk refuses.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        part.chmod(0o755)
    try:
        with writing(target):
            yield part
            if target.exists():
                _exchange(part, target)
            else:
                part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_parts(folder: Path, targets: str) -> None:
    """Remove what `replacing_folder` leaves of targets of those names (a pattern) where its process is killed.

    Only where nobody else writes there. Raises OutputError where the disk refuses.
    """
    part = re.compile(rf"\.({targets})\.[a-z0-9_]{{8}}")
    with writing(folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            if part.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders; in one step where the system can (Linux renameat2), so that a crash leaves one of them."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is not None:
        paths = os.fsencode(one), os.fsencode(other)
        if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
            return
    aside = one.with_name(one.name + ".old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
