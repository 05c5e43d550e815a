"""Protects identity by ArcFace: faces land on the template, sizes are read off the weights, cosines are means."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from portrait_jax.encoders.arcface import ArcFaceConfig
from portrait_jax.errors import CheckpointError, ShapeError
from portrait_jax.face.five_points import TEMPLATE, aligned_face, five_points
from portrait_jax.metrics.recogniser import Recogniser, config_of, cosine
from portrait_jax.training.params import save_params

SMALL = ArcFaceConfig(layers=(1, 2, 1, 1), channels=(4, 4, 8, 8), embedding=6, image_size=32)


def face(angle: float, scale: float, at: tuple[float, float]) -> np.ndarray:
    """Landmarks whose five points are the template's, turned, scaled and moved."""
    turn = np.exp(1j * np.deg2rad(angle)) * scale
    points = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * turn + complex(*at)
    landmarks = np.zeros((478, 3), np.float32)
    for place, indices in zip(points, ((33, 133), (362, 263), (4,), (61,), (291,))):
        landmarks[list(indices), :2] = place.real, place.imag
    return landmarks


@pytest.mark.parametrize(("angle", "scale", "at"), [(0, 1, (0, 0)), (20, 1.6, (60, 30)), (-35, 0.9, (40, 120))])
def test_an_aligned_face_has_its_five_points_on_the_template(angle, scale, at):
    landmarks = face(angle, scale, at)
    image = np.zeros((300, 300, 3), np.uint8)
    for number, (x, y) in enumerate(five_points(landmarks)):
        image[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 50 * (number + 1)
    found = aligned_face(image, landmarks)
    for number, (x, y) in enumerate(TEMPLATE):
        assert found[int(y), int(x), 0] == 50 * (number + 1)


@pytest.fixture(scope="module")
def weights():
    network = Recogniser({}, SMALL)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), jax.eval_shape(network.fresh)
    )


def test_sizes_are_read_off_the_weights(weights):
    assert config_of(weights, "x") == SMALL
    with pytest.raises(CheckpointError, match="x is no face recogniser"):
        config_of({"conv1": {}}, "x")


def test_frames_without_a_face_have_no_embedding(weights, tmp_path):
    path = tmp_path / "arcface.safetensors"
    save_params(path, {"face_recogniser": weights}, {})
    network = Recogniser.load(path)
    video = np.random.default_rng(0).integers(0, 256, (3, 120, 120, 3), dtype=np.uint8)
    landmarks = np.stack([face(0, 1, (0, 0)), np.full((478, 3), np.nan, np.float32), face(10, 0.8, (20, 20))])
    found = network.embed(video, landmarks)
    assert found.shape == (2, 6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    assert cosine(found[:1], found[:1]) == pytest.approx(1, abs=1e-4)
    assert np.isnan(cosine(found, network.embed(video[1:2], landmarks[1:2])))
    with pytest.raises(ShapeError, match="3 frames have landmarks of 1 frames"):
        network.embed(video, landmarks[:1])


def test_parameters_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_params(path, {"denoiser": {"kernel": np.ones(2, np.float32)}}, {})
    with pytest.raises(CheckpointError, match="has no sub-network 'face_recogniser'"):
        Recogniser.load(path)


def test_the_cosine_is_the_mean_over_all_pairs():
    one, two = np.eye(2, dtype=np.float32), np.array([[1.0, 0.0]], np.float32)
    assert cosine(one, two) == pytest.approx(0.5)
