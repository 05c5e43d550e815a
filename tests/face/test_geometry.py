"""Protects: the canonical face is read from a model bundle as it was written, and a damaged bundle says what it lacks."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from portrait_jax.errors import InputFileError
from portrait_jax.face.geometry import ENTRY, load_geometry
from portrait_jax.face.measures import FRONTAL_FACE, RIGID_POINTS
from tests.face.faces import canonical, write_bundle


def test_a_written_face_is_read_again(tmp_path):
    face = canonical()
    read = load_geometry(write_bundle(tmp_path / "face.task", face))
    np.testing.assert_allclose(read.vertices, face.vertices, atol=1e-6)
    np.testing.assert_allclose(read.weights, face.weights, rtol=1e-6)


def test_the_real_bundle_holds_the_face_whose_rigid_points_are_known(face_landmarker_path):
    face = load_geometry(face_landmarker_path)
    np.testing.assert_allclose(face.vertices[RIGID_POINTS], FRONTAL_FACE * [1, -1, -1], atol=0.01)
    assert (face.weights > 0).sum() == 33


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05\x1a\x03abc", "no canonical face"),
        (b"\x0a\x7fabc", "cut off"),
        (b"\x12\x08\x08\x83\x08\x15\x00\x00\x00\x00", "weight for vertex 1027"),
        (b"", "0 vertices, 468 are needed"),
        (b"\xff" * 30, "no canonical face"),
    ],
)
def test_a_damaged_face_is_refused(tmp_path, data, message):
    with zipfile.ZipFile(tmp_path / "x.task", "w") as bundle:
        bundle.writestr(ENTRY, data)
    with pytest.raises(InputFileError, match=message):
        load_geometry(tmp_path / "x.task")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.task").write_bytes(b"PK no zip")
    with pytest.raises(InputFileError, match=r"give MediaPipe's face_landmarker\.task"):
        load_geometry(tmp_path / "x.task")
    with zipfile.ZipFile(tmp_path / "y.task", "w") as bundle:
        bundle.writestr("other", b"x")
    with pytest.raises(InputFileError, match="holds no canonical face"):
        load_geometry(tmp_path / "y.task")
