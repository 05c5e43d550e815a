"""A benchmark as a file: one line of JSON per case, which names a portrait, a driving video and its landmarks.

    {"name": "fox", "portrait": "portraits/fox.png", "driving": "videos/wink.mp4", "landmarks": "videos/wink.npz"}
    {"name": "wink", "driving": "videos/wink.mp4"}

A case without a portrait is self-reenactment: the video's first frame is the portrait, and the frames after it drive it and
are the truth. Paths are relative to the file's folder and stay inside it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from portrait_jax.errors import InputFileError, nearest
from portrait_jax.media.files import FilePath, checked_input

MOST_BYTES, MOST_CASES = 16 << 20, 10_000
NAME = re.compile(r"[\w.-]{1,80}")


@dataclass(frozen=True)
class Triple:
    """One case of a benchmark.

    Attributes:
        name: unique; letters, digits, `_`, `.`, `-`.
        driving: a video; or, for a case with a portrait, a stored landmark sequence (`.npz`) alone.
        portrait: an image; None for self-reenactment.
        landmarks: the video's landmarks (`face.alignment.save_landmarks`), where they need not be found again.
        portrait_landmarks: the portrait's, for faces that no detector finds.
    """

    name: str
    driving: Path
    portrait: Path | None = None
    landmarks: Path | None = None
    portrait_landmarks: Path | None = None

    @property
    def group(self) -> str:
        """`self` or `cross`, the two kinds of reenactment."""
        return "self" if self.portrait is None else "cross"


KEYS = tuple(field.name for field in fields(Triple))


def read_manifest(path: FilePath) -> list[Triple]:
    """Reads and checks a whole benchmark before any of it is run.

    Raises:
        InputFileError: naming the line: no JSON object, an unknown or missing key, a name twice, a path that is absolute or
            leaves the folder, a file that is not there; or for a file that is too large.
    """
    source = checked_input(path, "manifest")
    if source.stat().st_size > MOST_BYTES:
        raise InputFileError(f"{source} is larger than {MOST_BYTES >> 20} MB; split the benchmark")
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputFileError(f"{source} is not UTF-8 text ({error}); write one JSON object per line") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 0 < len(numbered) <= MOST_CASES:
        raise InputFileError(f"{source} holds {len(numbered)} cases; give 1 to {MOST_CASES}")
    triples: dict[str, Triple] = {}
    for number, line in numbered:
        triple = _triple(line, source.parent, f"{source}, line {number}")
        if triple.name in triples:
            raise InputFileError(f"{source}, line {number}: there is a case '{triple.name}' already; names are unique")
        triples[triple.name] = triple
    return list(triples.values())


def _triple(line: str, folder: Path, where: str) -> Triple:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{where} is no JSON ({error}); write one object per line") from error
    if not isinstance(entry, dict):
        raise InputFileError(f"{where} is {type(entry).__name__}, not an object with {', '.join(KEYS)}")
    for key, value in entry.items():
        if key not in KEYS:
            raise InputFileError(f"{where} has an unknown key '{key}'{nearest(key, KEYS)}")
        if not isinstance(value, str):
            raise InputFileError(f"{where}: '{key}' is {value!r}, not text")
    if missing := {"name", "driving"} - entry.keys():
        raise InputFileError(f"{where} lacks {', '.join(sorted(missing))}")
    if not NAME.fullmatch(entry["name"]):
        raise InputFileError(f"{where}: the name '{entry['name']}' is not 1 to 80 letters, digits, '_', '.' or '-'")
    paths = {key: _inside(value, folder, f"{where}, {key}") for key, value in entry.items() if key != "name"}
    triple = Triple(entry["name"], **paths)
    if triple.portrait is None and triple.driving.suffix.lower() == ".npz":
        raise InputFileError(
            f"{where}: self-reenactment needs a video, not landmarks alone; name a portrait or a video"
        )
    return triple


def _inside(text: Any, folder: Path, what: str) -> Path:
    relative = PurePosixPath(text)
    if not text or relative.is_absolute() or ".." in relative.parts or "\\" in text or "\0" in text:
        raise InputFileError(f"{what}: '{text}' is no path inside the manifest's folder; put the file there")
    return checked_input(folder / relative, what)
