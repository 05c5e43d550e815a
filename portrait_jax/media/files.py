"""Opening and leaving files: inputs are checked before a decoder sees them, outputs appear only when they are whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portrait_jax.errors import InputFileError

FilePath = str | os.PathLike[str]


def checked_input(path: FilePath, kind: str) -> Path:
    """Returns `path` if it is a readable, non-empty file; `kind` ("image", "video", …) goes into the message.

    Raises InputFileError if it is missing, a folder, empty or not readable.
    """
    path = Path(path)
    if path.is_dir():
        raise InputFileError(f"{path} is a folder; give one {kind} file")
    if not path.exists():
        raise InputFileError(f"{kind} file {path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise InputFileError(f"{kind} file {path} is empty (0 bytes); download or export it again")
    if not os.access(path, os.R_OK):
        raise InputFileError(f"{kind} file {path} is not readable; check its permissions")
    return path


def digest(path: FilePath) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_output(path: FilePath) -> Iterator[Path]:
    """Yields a temporary name beside `path`; moves it into place on success and removes it on any error.

    The temporary name keeps the suffix, so that encoders choosing a format by it see the right one.
    """
    path = Path(path)
    if path.is_dir():
        raise InputFileError(f"output {path} is a folder; give a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputFileError(f"cannot create the folder {path.parent} for the output: {error}") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputFileError(f"the folder {path.parent} may not be written to; give another output")
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
