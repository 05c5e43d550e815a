"""What `launch.benchmark` makes of its command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launch.benchmarks.suite import SUITES
from portrait_jax.errors import ConfigError, InputFileError, nearest


def chosen(suite: str, only: Sequence[str]) -> tuple[str, list[str]]:
    """The suite and its networks by name; raises ConfigError with the nearest name for one that does not exist."""
    if suite not in SUITES:
        raise ConfigError(f"there is no suite '{suite}'{nearest(suite, tuple(SUITES))}")
    known = SUITES[suite].networks
    for name in only:
        if name not in known:
            raise ConfigError(f"the suite '{suite}' has no network '{name}'{nearest(name, tuple(known))}")
    return suite, [name for name in known if name in only or not only]


def checked_output(path: Path) -> Path:
    """Raises InputFileError before anything is timed if the results could not be written."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputFileError(f"cannot write the results to {path}; give a file in a folder that may be written to")
    return path


def joined(argv: Sequence[str]) -> list[str]:
    """`--only a b` as `--only=a,b`."""
    words: list[str] = []
    for word in argv:
        if words and not word.startswith("-") and words[-1].lstrip("-").startswith("only"):
            words[-1] += f"{',' if '=' in words[-1] else '='}{word}"
        else:
            words.append(word)
    return words
