"""The folder of an unfinished animation: what it was begun with, its finished segments, and where it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from portrait_jax.animation.animator import Animator, Position
from portrait_jax.errors import InputFileError, listed
from portrait_jax.media.files import atomic_output
from portrait_jax.typing import UInt8

JOB, POSITION = "job.json", "position.npz"
_SHOWN = 48
"""Characters of a setting that a message shows whole."""


class Done(NamedTuple):
    """What lies in the folder.

    Attributes:
        position: where to go on; None for the start.
        kept: frames of the results for the contact sheets, by number.
    """

    position: Position | None
    kept: dict[int, UInt8[np.ndarray, "b h w 3"]]


def open_parts(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Makes the folder anew, or with `resume` checks that what lies there was begun with the same settings.

    Args:
        settings: JSON-able; everything that the result depends on.

    Raises:
        InputFileError: naming each setting that differs, with both values; for somebody else's folder; or where no
            folder can be made.
    """
    record = folder / JOB
    wanted = json.loads(json.dumps(settings))
    if resume and record.exists():
        if different := differences(_read(record), wanted):
            raise InputFileError(
                f"{folder} was begun with other settings ({listed(different)}); use those again, or start anew "
                "without --resume"
            )
        return
    if not record.exists() and any(folder.glob("[!.]*")):
        raise InputFileError(f"{folder} exists and is not of this program; remove it or choose another output")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputFileError(f"cannot create the folder {folder} for finished parts: {error}") from error
    with atomic_output(record) as partial:
        partial.write_text(json.dumps(wanted))


def _read(record: Path) -> Any:
    try:
        return json.loads(record.read_text())
    except ValueError as error:
        raise InputFileError(f"{record} is damaged ({error}); start anew without --resume") from error


def differences(stored: Any, wanted: Any) -> list[str]:
    """`name (stored value, now wanted value)` for each setting that differs; nested names are joined by dots."""
    before, now = leaves(stored), leaves(wanted)
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name} ({_shown(before.get(name))}, now {_shown(now.get(name))})" for name in names]


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """`{"outer.inner": value}` of nested dictionaries."""
    if not isinstance(value, dict):
        return {name: value}
    parts = (leaves(inner, f"{name}.{key}" if name else key) for key, inner in value.items())
    return {key: leaf for part in parts for key, leaf in part.items()}


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:12]}…"


def segment(folder: Path, first: int) -> Path:
    """The segment that begins with frame `first`."""
    return folder / f"segment_{first:08d}.mp4"


def segments(folder: Path) -> list[Path]:
    """All finished segments in order."""
    return sorted(folder.glob("segment_*.mp4"))


def save_position(folder: Path, position: Position, kept: Mapping[int, UInt8[np.ndarray, "b h w 3"]]) -> None:
    """Writes what `load_position` reads."""
    arrays: dict[str, Any] = {f"leaf_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(position.carry))}
    arrays |= {f"frame_{i}": frame for i, frame in kept.items()}
    arrays["window"] = position.window
    with atomic_output(folder / POSITION) as partial:
        np.savez(partial, **arrays)


def load_position(folder: Path, animator: Animator) -> Done:
    """Where the segments in the folder end."""
    if not (folder / POSITION).exists():
        return Done(None, {})
    like = animator.blank(animator.plan(1))  # The tree is the same for every length.
    with np.load(folder / POSITION, allow_pickle=False) as stored:
        carry = [stored[f"leaf_{i}"] for i in range(len(jax.tree.leaves(like)))]
        kept = {int(name.removeprefix("frame_")): stored[name] for name in stored.files if name.startswith("frame_")}
        return Done(Position(int(stored["window"]), jax.tree.unflatten(jax.tree.structure(like), carry)), kept)
