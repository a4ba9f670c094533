"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paring.errors import OutputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_of(file: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(file: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it. Raises OutputError where the disk refuses."""
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        raise unwritable(file, error) from error


def write_json(file: Path, values: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(file, json.dumps(values, indent=2) + "\n")


def unwritable(path: Path, error: OSError) -> OutputError:
    """The sentence for a disk that refuses."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(f"{path} can't be written ({cause}): choose another --out, or free space and permissions there.")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place at the end; on an error the old one stays as it was."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        part.chmod(0o755)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        yield part
        if target.exists():
            _exchange(part, target)
        else:
            part.rename(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
