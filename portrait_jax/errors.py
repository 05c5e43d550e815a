"""Every mistake a user can make has a type here; its message says what was wrong, where, and what to do.

Entry points print the message and leave with status 2 (`launch.cli`). A traceback is for bugs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PortraitError(Exception):
    """Base of all errors that a user can cause and mend."""


class InputFileError(PortraitError):
    """A file is missing, of the wrong kind, too large, or unreadable."""


class NoFaceError(PortraitError):
    """No face was found in an image or a frame."""


class MultipleFacesError(PortraitError):
    """More than one face was found where exactly one is expected."""


class AudioError(PortraitError):
    """Audio is missing, too short, silent or unreadable."""


class VideoError(PortraitError):
    """A video is unreadable, truncated or empty."""


class CheckpointError(PortraitError):
    """A checkpoint is missing, corrupted or holds other parameters than the model."""


class ShapeError(PortraitError):
    """Two shapes that should agree do not; the message holds both."""


class ConfigError(PortraitError):
    """A config key or value does not exist or does not fit."""


class DeviceError(PortraitError):
    """Not enough devices for the mesh, or a device that cannot run the program."""


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Joins at most `limit` sorted names and counts the rest: `a, b, c … and 12 more`."""
    names = sorted(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" … and {rest} more" if rest > 0 else "")


def plural(count: int, noun: str) -> str:
    """A number with its noun: `1 tensor`, `2 tensors`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def nearest(name: str, choices: Sequence[str]) -> str:
    """Ends an error message with the likeliest correction: `; did you mean 'x'?`, or the choices."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known are: {listed(choices)}"
