"""Checksums of a checkpoint's files, so that a byte which a disk has lost is noticed before anything is trained on it.

Orbax notices files that are cut or gone, and most changed bytes in its own records, but not one inside a large array. A
checkpoint is sealed once it is complete: `seals/<step>.json` beside the folder of checkpoints lists its files.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from portrait_jax.media.files import atomic_output

FOLDER = "seals"
BLOCK = 1 << 22
"""Bytes that are read at a time."""
THREADS = 8


def seal(checkpoint: Path) -> None:
    """Writes the checksums of `checkpoints/<step>`; one that is sealed already stays as it is."""
    path = path_of(checkpoint)
    if path.exists():
        return
    try:
        sums = checksums(checkpoint, files_of(checkpoint))
    except FileNotFoundError:
        return  # It has given way to newer ones meanwhile.
    path.parent.mkdir(exist_ok=True)
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(sums), encoding="utf-8")


def broken(checkpoint: Path) -> list[str]:
    """Names of files that are not what they were when the checkpoint was sealed; none if it never was."""
    path = path_of(checkpoint)
    if not path.exists():
        return []
    try:
        expected = {str(name): int(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError):
        return []  # The seal itself is damaged: it says nothing.
    found = checksums(checkpoint, [name for name in expected if (checkpoint / name).is_file()])
    return sorted(name for name, value in expected.items() if found.get(name) != value)


def forget(folder: Path, steps: Collection[int]) -> None:
    """Removes the seals of all but these steps; `folder` is that of the checkpoints."""
    for path in (folder.parent / FOLDER).glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) not in steps:
            path.unlink(missing_ok=True)


def path_of(checkpoint: Path) -> Path:
    """Where its seal lies."""
    return checkpoint.parent.parent / FOLDER / f"{checkpoint.name}.json"


def files_of(checkpoint: Path) -> list[str]:
    """All files, relative to it."""
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def checksums(checkpoint: Path, names: Collection[str]) -> dict[str, int]:
    """CRC-32 of each file."""
    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: checksum(checkpoint / name), names), strict=True))


def checksum(path: Path) -> int:
    """CRC-32 of a file, in bounded memory."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value
