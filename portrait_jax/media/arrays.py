"""Untrusted `.npz` files: bounded, and never a pickle."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from portrait_jax.errors import InputFileError

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a file, each read when it is asked for; raises what numpy raises."""
    # Threads of the data pipeline meet here: Python 3.11 before 3.11.8 raises SystemError where two parse a header at once.
    with _ONE_AT_A_TIME, np.load(path, allow_pickle=False) as stored:
        yield stored


def read_arrays(
    path: Path, names: Sequence[str], what: str, advice: str, limit: int, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The named arrays of a file, of whatever shape and kind they are; optional ones that are not there are left out.

    Args:
        what: what the file should hold, and `advice` how to make one, for messages.
        limit: bytes that it may unpack to.

    Raises:
        InputFileError: no such file, one without these arrays or with pickles, or too large.
    """
    problem = f"{path} is not {what}"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > limit:
                raise InputFileError(f"{problem}: it unpacks to more than {limit >> 20} MiB; {advice}")
        with opened(path) as stored:
            return {name: stored[name] for name in (*names, *(name for name in optional if name in stored))}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise InputFileError(f"{problem} ({error}); {advice}") from error
