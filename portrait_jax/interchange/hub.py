"""Where a model's files are: a path, or `hub:org/name`, found in local folders, in the hub's cache, or fetched.

Without a network everything still works from the folder `PORTRAIT_MODELS` (default `~/.cache/portrait_jax/models`), which
holds one folder `org/name` per model, laid out as on the hub.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from portrait_jax.errors import CheckpointError, listed, plural

PREFIX = "hub:"
DEFAULT_FOLDER = "~/.cache/portrait_jax/models"
NAME = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?((?:/[\w.-]+)*)")


def models_folder() -> Path:
    """The folder of models that people put there by hand."""
    return Path(os.environ.get("PORTRAIT_MODELS", DEFAULT_FOLDER)).expanduser()


def resolve(name: str | os.PathLike[str], files: Sequence[str] = ()) -> Path:
    """The local folder or file of a model.

    Args:
        name: a path; or `hub:org/name`, with `@revision` and `/folder/or/file` behind it where wanted.
        files: names or patterns (`*.safetensors`) that must be there; from the hub nothing else is fetched.

    Raises:
        CheckpointError: naming the files that are missing and where to put them.
    """
    text = os.fspath(name)
    if not text.startswith(PREFIX):
        return complete(Path(text).expanduser(), files, text)
    match = NAME.fullmatch(text.removeprefix(PREFIX))
    if match is None or ".." in text:
        raise CheckpointError(
            f"'{text}' names no model; write hub:org/name, hub:org/name@revision or hub:org/name/folder"
        )
    repository, revision, inside = match[1], match[2], match[3].lstrip("/")
    own = models_folder() / repository / inside
    if own.exists() and not missing(own, files):
        return own
    found = from_hub(repository, revision, inside, files)
    if found is not None and not missing(found, files):
        return found
    wanted = missing(own, files) or [inside or "its files"]
    raise CheckpointError(
        f"{text} is not on this machine ({len(wanted)} missing: {listed(wanted)}) and could not be fetched; "
        f"put them into {own}, or run once with a network and without HF_HUB_OFFLINE"
    )


def complete(path: Path, files: Sequence[str], text: str) -> Path:
    """The path itself, if it and the files are there."""
    if not path.exists():
        raise CheckpointError(f"there is no model at {text}; check the path, or write hub:org/name")
    if lost := missing(path, files):
        raise CheckpointError(f"{text} lacks {plural(len(lost), 'file')} ({listed(lost)}); put them into {path}")
    return path


def missing(folder: Path, files: Sequence[str]) -> list[str]:
    """The names and patterns of `files` that nothing in the folder fits."""
    if not folder.is_dir():
        return [] if folder.is_file() else list(files)
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [wanted for wanted in files if not any(fnmatch.fnmatch(name, wanted) for name in there)]


def from_hub(repository: str, revision: str | None, inside: str, files: Sequence[str]) -> Path | None:
    """The snapshot in the hub's cache, completed over the network where there is one; None if neither has it."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    patterns = [f"{inside}/{file}" if inside else file for file in files] or ([f"{inside}*"] if inside else None)
    for offline in (True, False):
        try:
            folder = snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=offline)
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError):
            continue
        found = Path(folder) / inside
        if found.exists() and (not offline or not missing(found, files)):
            return found
    return None
