"""Stored skeleton sequences, from any source: `.npz` with `skeletons` "f 12 2", `fps` and `size` (width, height)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portrait_jax.errors import InputFileError
from portrait_jax.face.skeleton import JOINTS, Sequence12
from portrait_jax.media.arrays import read_arrays
from portrait_jax.media.files import FilePath, atomic_output, checked_input

_MAX_FRAMES, _MAX_BYTES = 200_000, 1 << 26


class SkeletonSequence(NamedTuple):
    """Joints of a clip (`skeleton.JOINTS`) in pixels of `width`×`height` frames at `fps`, NaN where they are not seen."""

    fps: float
    width: int
    height: int
    points: Sequence12


def save_skeletons(path: FilePath, sequence: SkeletonSequence) -> None:
    """Writes a sequence as a compressed `.npz`."""
    with atomic_output(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file, skeletons=np.asarray(sequence.points, np.float32), fps=np.array(sequence.fps, np.float64),
            size=np.array([sequence.width, sequence.height]),
        )  # fmt: skip


def load_skeletons(path: FilePath) -> SkeletonSequence:
    """Reads what `save_skeletons` wrote, or another program in its form.

    Raises:
        InputFileError: missing, no such file, holding pickles (never executed), too large, or with values out of range.
    """
    path = checked_input(path, "skeleton")
    problem = f"{path} is not a skeleton sequence"
    advice = "make one with portrait_jax.face.skeleton_files.save_skeletons"
    stored = read_arrays(path, ("skeletons", "fps", "size"), "a skeleton sequence", advice, _MAX_BYTES)
    points, fps, size = stored["skeletons"], stored["fps"], stored["size"]
    if points.ndim != 3 or points.shape[1:] != (len(JOINTS), 2) or not 0 < len(points) <= _MAX_FRAMES:
        raise InputFileError(f"{problem}: its array is {points.shape}, not (frames, {len(JOINTS)}, 2); {advice}")
    if points.dtype.kind != "f" or np.isinf(points).any():
        raise InputFileError(f"{problem}: its joints are not numbers, or NaN where they are not seen; {advice}")
    numbers = fps.dtype.kind in "fiu" and size.dtype.kind in "fiu" and not fps.shape and size.shape == (2,)
    if not numbers or not 0 < float(fps) <= 240 or not ((size > 0) & (size <= 16384)).all():
        raise InputFileError(f"{problem}: frame rate {fps} or size {size} is out of range; {advice}")
    return SkeletonSequence(float(fps), int(size[0]), int(size[1]), points.astype(np.float32))
