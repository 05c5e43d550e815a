"""Protects: the system sees a portrait as it saw faces in training: as large, and as high in the picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data import synthetic
from data.synthetic.head import HeadShape, View
from portrait_jax.animation import load_portrait
from portrait_jax.errors import ConfigError, InputFileError, MultipleFacesError, NoFaceError
from portrait_jax.face.alignment import LandmarkSequence, load_landmarks, save_landmarks
from portrait_jax.face.by_hand import NAMES
from portrait_jax.face.crops import face_box
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.image import read_image, write_image
from tests.face.faces import canonical, write_bundle


def placement(landmarks, size: int) -> np.ndarray:
    """Longer side of the face's box, and its middle, all in picture sides."""
    x0, y0, x1, y1 = face_box(landmarks) / size
    return np.array([max(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2])


@pytest.fixture(scope="module")
def trained() -> np.ndarray:
    """Placements of faces in the training's pictures."""
    from data.synthetic.features import build
    from data.synthetic.landmarks import project_landmarks

    found = []
    for index in range(60):
        identity = synthetic.sample_identity(synthetic.split_seed("train", index))
        performance = synthetic.sample_performance(index, 2)
        shape = HeadShape.of(identity.traits)
        features = build(identity, shape, performance.expression[0])
        found.append(placement(project_landmarks(features, shape, View.of(performance.pose[0])), 1))
    return np.stack(found)


@pytest.fixture
def stored(tmp_path):
    """Writes a picture of `height`×`width` with a person at a place, and its landmarks; returns both files."""

    def make(height: int, width: int, x: float = 0.5, y: float = 0.5, scale: float = 0.15, size: int = 400):
        pose = np.array([0, 0, 0, x, y, scale], np.float32)
        frame = synthetic.render(synthetic.sample_identity(8), pose, np.zeros(len(synthetic.EXPRESSION_NAMES)), size)
        write_image(tmp_path / "a.png", frame.image[:height, :width])
        save_landmarks(tmp_path / "a.npz", LandmarkSequence(1.0, width, height, frame.landmarks[None]))
        return tmp_path / "a.png", tmp_path / "a.npz"

    return make


@pytest.mark.parametrize("scale", [0.08, 0.15, 0.35])
@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.45, 0.54)])
def test_the_face_has_the_size_and_place_that_training_faces_have(stored, trained, scale, x, y):
    image, landmarks = stored(400, 400, x=x, y=y, scale=scale)
    portrait = load_portrait(image, 128, landmarks=landmarks)
    assert portrait.image.shape == (128, 128, 3)
    found = placement(portrait.landmarks, 128)
    assert abs(found[0] - trained[:, 0].mean()) < 0.05
    low, high = np.quantile(trained, [0.05, 0.95], axis=0)
    assert (low <= found).all() and (found <= high).all(), (low, found, high)


def test_landmarks_follow_the_crop_to_the_pixel(stored):
    image, landmarks = stored(400, 400, x=0.4, y=0.55)
    large, small = (load_portrait(image, size, landmarks=landmarks) for size in (256, 64))
    np.testing.assert_allclose(large.landmarks / 4, small.landmarks, atol=1e-4)
    # The pupils are the darkest part of the eyes: the picture was cut as the landmarks were.
    for pupil in (468, 473):
        x, y = large.landmarks[pupil, :2].astype(int)
        assert large.image[y - 2 : y + 3, x - 2 : x + 3].min() < 80


def test_a_picture_of_the_systems_size_is_taken_as_it_is(stored):
    image, landmarks = stored(128, 128, size=128, scale=0.4)
    portrait = load_portrait(image, 128, landmarks=landmarks)
    np.testing.assert_array_equal(portrait.image, read_image(image))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (400, 220), (220, 400)])
def test_small_and_long_pictures_give_squares(stored, height, width):
    size = max(height, width)
    image, landmarks = stored(height, width, x=0.25, y=0.25, scale=0.25, size=size)
    portrait = load_portrait(image, 128, landmarks=landmarks)
    assert portrait.image.shape == (128, 128, 3)
    inside = portrait.landmarks[:468, :2]
    assert inside.min() > -8 and inside.max() < 136


@pytest.mark.parametrize(("height", "width"), [(300, 200), (173, 400), (128, 128), (61, 60)])
def test_a_whole_picture_lies_on_black_bars_with_its_landmarks(stored, height, width):
    image, landmarks = stored(height, width, size=max(height, width), x=0.3, y=0.3, scale=0.25)
    portrait = load_portrait(image, 128, landmarks=landmarks, framing="whole")
    assert portrait.image.shape == (128, 128, 3)
    scale = 128 / max(height, width)
    inner = int(height * scale), int(width * scale)
    filled = portrait.image.any(axis=-1)
    assert (filled.any(axis=1).sum(), filled.any(axis=0).sum()) == inner
    assert abs(int(filled.any(axis=0).argmax()) - (128 - inner[1]) / 2) <= 0.5
    points, own = portrait.landmarks, load_landmarks(landmarks).landmarks[0]
    np.testing.assert_allclose(np.diff(points[:, 0]), np.diff(own[:, 0]) * inner[1] / width, atol=1e-3)
    np.testing.assert_allclose(np.diff(points[:, 1]), np.diff(own[:, 1]) * inner[0] / height, atol=1e-3)
    x, y = points[468, :2].astype(int)
    assert portrait.image[y - 1 : y + 2, x - 1 : x + 2].min() < 120, "the pupil is the darkest part of the eye"


@pytest.mark.parametrize("framing", ["face", "whole"])
def test_points_set_by_hand_place_the_whole_face(stored, tmp_path, framing):
    image, landmarks = stored(300, 220, size=300, x=0.35, y=0.4, scale=0.25)
    own = load_landmarks(landmarks).landmarks[0]
    points = {name: own[number, :2].tolist() for name, number in NAMES.items()}
    (tmp_path / "a.json").write_text(json.dumps(points))
    bundle = write_bundle(tmp_path / "face.task", canonical())
    found = load_portrait(image, 128, landmarks=tmp_path / "a.json", framing=framing, bundle=lambda: bundle)
    expected = load_portrait(image, 128, landmarks=landmarks, framing="whole")
    if framing == "whole":
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_allclose(found.landmarks[33, :2], expected.landmarks[33, :2], atol=0.05)
    x, y = found.landmarks[468, :2].astype(int)
    assert found.image[y - 1 : y + 2, x - 1 : x + 2].min() < 90, "the pupil is the darkest part of the eye"


def test_an_unknown_framing_is_named(stored):
    image, landmarks = stored(64, 64)
    with pytest.raises(ConfigError, match="'hole' is not known; did you mean 'whole'"):
        load_portrait(image, 32, landmarks=landmarks, framing="hole")


def test_landmarks_of_another_picture_are_refused_with_both_sizes(stored, tmp_path):
    image, landmarks = stored(400, 400)
    write_image(tmp_path / "b.png", read_image(image)[:300])
    with pytest.raises(InputFileError, match="landmarks of a 400×400 picture, but .*b.png is 400×300"):
        load_portrait(tmp_path / "b.png", 128, landmarks=landmarks)


def test_without_landmarks_and_detector_there_is_no_face(stored):
    with pytest.raises(InputFileError, match="give its landmarks or a face detector"):
        load_portrait(stored(400, 400)[0], 128)


# Real pictures


@pytest.fixture(scope="module")
def detector(face_landmarker_path):
    with FaceDetector(face_landmarker_path) as opened:
        yield opened


def test_the_face_of_a_real_portrait_is_found_and_placed_like_training_faces(detector, samples_dir, trained):
    portrait = load_portrait(samples_dir / "portraits" / "older_man_beach.jpg", 128, detector=detector)
    found = placement(portrait.landmarks, 128)
    assert abs(found[0] - trained[:, 0].mean()) < 0.06
    again = detector.detect(np.repeat(np.repeat(portrait.image, 2, axis=0), 2, axis=1)).landmarks_px / 2
    assert np.abs(again - portrait.landmarks)[:, :2].mean() < 3


def test_pictures_with_no_face_or_two_are_named(detector, samples_dir, tmp_path):
    write_image(tmp_path / "wall.png", np.full((96, 96, 3), 128, np.uint8))
    with pytest.raises(NoFaceError, match=r"wall\.png"):
        load_portrait(tmp_path / "wall.png", 128, detector=detector)
    one = read_image(samples_dir / "portraits" / "frontal.png")
    write_image(tmp_path / "pair.png", np.concatenate([one, one], axis=1))
    with pytest.raises(MultipleFacesError, match=r"pair\.png"):
        load_portrait(tmp_path / "pair.png", 128, detector=detector)


def test_a_wide_picture_covers_the_frame_with_its_middle_and_others_lie_whole_in_the_square(stored):
    for height, width, shape in ((120, 300, (64, 96)), (200, 200, (64, 64)), (300, 200, (64, 64))):
        path, landmarks = stored(height, width, x=0.25, y=0.15, scale=0.1)
        found = load_portrait(path, 64, landmarks=landmarks, framing="cover", frame=(64, 96))
        assert found.image.shape == (*shape, 3)
        points = load_landmarks(landmarks).landmarks[0]
        scale = max(64 / height, 96 / width) if width > height else 64 / max(height, width)
        middle = np.array([width, height]) * scale / 2 - np.array(shape[::-1]) / 2
        np.testing.assert_allclose(found.landmarks[:, :2], points[:, :2] * scale - middle, atol=0.6)
        assert found.whole[0].shape == ((height, width, 3) if width > height else (64, 64, 3))
