"""MediaPipe's canonical face, read from its model bundle: the mesh and the weights by which a detected face is measured.

The bundle `face_landmarker.task` is a zip; the entry is a protocol-buffers message (mediapipe,
`face_geometry/protos/geometry_pipeline_metadata.proto`), of which two fields are needed: field 1, the mesh (its field 3: five
floats a vertex, x y z u v), and the repeated field 2, pairs of landmark number and weight.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from portrait_jax.errors import InputFileError
from portrait_jax.media.files import FilePath, checked_input
from portrait_jax.typing import Float

ENTRY = "geometry_pipeline_metadata_landmarks.binarypb"
VERTICES = 468
_MAX_BYTES = 1 << 20
_VERTEX = 5
"""Floats a vertex: three of place, two of texture."""


class FaceGeometry(NamedTuple):
    """The canonical face.

    Attributes:
        vertices: cm; x to the subject's left, y up, z towards the camera.
        weights: of each vertex when two faces are compared; most are 0.
    """

    vertices: Float[np.ndarray, "468 3"]
    weights: Float[np.ndarray, "468"]


def load_geometry(path: FilePath) -> FaceGeometry:
    """Reads a model bundle's canonical face.

    Raises:
        InputFileError: missing, no bundle, or one without this face.
    """
    path = checked_input(path, "face model")
    advice = "give MediaPipe's face_landmarker.task by --face_landmarker"
    try:
        with zipfile.ZipFile(path) as bundle:
            if bundle.getinfo(ENTRY).file_size > _MAX_BYTES:
                raise ValueError(f"{ENTRY} has more than {_MAX_BYTES >> 20} MiB")
            data = bundle.read(ENTRY)
        return _parsed(data)
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, OSError) as error:
        raise InputFileError(f"{path} holds no canonical face ({error}); {advice}") from error


def _parsed(data: bytes) -> FaceGeometry:
    vertices, weights = np.zeros((0, _VERTEX)), np.zeros(VERTICES)
    for number, value in _fields(data):
        if number == 1:
            floats = b"".join(
                inner for field, inner in _fields(_bytes(value)) if field == 3 and isinstance(inner, bytes)
            )
            vertices = np.frombuffer(floats, "<f4").reshape(-1, _VERTEX).astype(np.float64)
        elif number == 2:
            pair = dict(_fields(_bytes(value)))
            index = pair.get(1, 0)
            if not isinstance(index, int) or index >= VERTICES:
                raise ValueError(f"a weight for vertex {index!r}")
            weights[index] = np.frombuffer(_bytes(pair[2]), "<f4")[0]
    if len(vertices) != VERTICES or not np.isfinite(vertices).all() or not (weights >= 0).all() or not weights.any():
        raise ValueError(f"{len(vertices)} vertices, {VERTICES} are needed with finite places and weights")
    return FaceGeometry(vertices[:, :3], weights)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: an integer, or the bytes of anything else."""
    at = 0
    while at < len(data):
        tag, at = _integer(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _integer(data, at)
            yield number, value
            continue
        length, at = _integer(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + length > len(data):
            raise ValueError("the message is cut off")
        yield number, data[at : at + length]
        at += length


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without an end")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value
