"""What a clip record holds: one table, from which the shards' features, the checks and the documentation follow.

Two forms share the table's names. The *raw* form is arrays (`frames` u8 "f h w 3", `face_mask` bool "f h w"); the
*record* form, which is stored, has `video` (mp4 bytes) and a packed `face_mask` instead (`data.records` converts).

Training reads the frames, the landmarks, the sound and the attributes, and makes its masks from the landmarks, so that
they move with an augmented picture and are alike for real and procedural people. `face_mask`, `face_box`, `pose` and
`expression` are the truth that results and detectors can be measured by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from portrait_jax.errors import ShapeError, listed

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning; shards of another version are refused, not guessed at."""

NUM_LANDMARKS = 478
FPS = 25.0
AUDIO_RATE = 16_000
POSE_NAMES = ("yaw", "pitch", "roll", "x", "y", "scale")

TEXT, BYTES, SCALAR, ARRAY = "text", "bytes", "scalar", "array"


class Field(NamedTuple):
    """One field: how it is stored, its NumPy type, its shape (`f` is the clip's length), its meaning."""

    kind: str
    dtype: type | None
    shape: tuple[int | str, ...]
    meaning: str


FIELDS: Mapping[str, Field] = {
    "clip_id": Field(TEXT, None, (), "unique name of the clip within the data set"),
    "source": Field(TEXT, None, (), "file, or generator and seed, that the clip comes from"),
    "identity": Field(TEXT, None, (), "who is seen; clips of one person share it"),
    "caption": Field(TEXT, None, (), "description, may be empty"),
    "fps": Field(SCALAR, np.float32, (), "frames per second"),
    "num_frames": Field(SCALAR, np.int32, (), "length f of the clip"),
    "height": Field(SCALAR, np.int32, (), "of the frames, pixels"),
    "width": Field(SCALAR, np.int32, (), "of the frames, pixels"),
    "video": Field(BYTES, None, (), "mp4: H.264, yuv420p, a key frame at least every 12 frames, no sound"),
    "face_mask": Field(BYTES, None, (), "the face's pixels, bool (f, height, width): packed to bits, zlib"),
    "landmarks": Field(ARRAY, np.float32, ("f", NUM_LANDMARKS, 3), "MediaPipe topology, pixels from the top left"),
    "face_box": Field(ARRAY, np.float32, ("f", 4), "x0, y0, x1, y1 of the face, pixels"),
    "pose": Field(ARRAY, np.float32, ("f", 6), "yaw, pitch, roll in degrees; x, y, scale in image sides"),
    "expression": Field(ARRAY, np.float32, ("f", "expressions"), "named in the data set's statistics"),
    "audio": Field(ARRAY, np.int16, ("samples",), "mono, 16 kHz, in step with the frames; may be empty"),
    "attributes": Field(ARRAY, np.float32, ("attributes",), "standardised traits, known for procedural people"),
}  # fmt: skip


def check(record: Mapping[str, Any]) -> None:
    """Raises ShapeError unless `record` has exactly the table's fields with the table's types and agreeing shapes."""
    if set(record) != set(FIELDS):
        difference = set(record) ^ set(FIELDS)
        raise ShapeError(f"a clip record needs other fields: {listed(difference)} missing or unknown")
    sizes: dict[str, int] = {"f": int(record["num_frames"])}
    for name, field in FIELDS.items():
        CHECKS[field.kind](name, field, record[name], sizes)
    clip = record["clip_id"]
    if not record["video"]:
        raise ShapeError(f"clip {clip}: the video is empty")
    if not np.isfinite(record["landmarks"]).all():
        raise ShapeError(f"clip {clip}: a landmark is not finite")


def _check_text(name: str, field: Field, value: Any, sizes: dict[str, int]) -> None:
    if not isinstance(value, str):
        raise ShapeError(f"{name} is {type(value).__name__}, not text")


def _check_bytes(name: str, field: Field, value: Any, sizes: dict[str, int]) -> None:
    if not isinstance(value, bytes):
        raise ShapeError(f"{name} is {type(value).__name__}, not bytes")


def _check_scalar(name: str, field: Field, value: Any, sizes: dict[str, int]) -> None:
    if np.ndim(value) != 0 or not np.isfinite(value) or value <= 0:
        raise ShapeError(f"{name} is {value!r}, not a positive number")


def _check_array(name: str, field: Field, value: Any, sizes: dict[str, int]) -> None:
    array = np.asarray(value)
    wanted = tuple(sizes.get(axis, axis) for axis in field.shape)
    fits = array.ndim == len(wanted) and all(
        isinstance(axis, str) or size == axis for size, axis in zip(array.shape, wanted, strict=True)
    )
    if array.dtype != field.dtype or not fits:
        raise ShapeError(f"{name} is {array.dtype}{list(array.shape)}, not {np.dtype(field.dtype)}{list(wanted)}")


CHECKS = {TEXT: _check_text, BYTES: _check_bytes, SCALAR: _check_scalar, ARRAY: _check_array}
