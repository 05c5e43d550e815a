"""Real portraits and a real driver go through the release's preprocessing with MediaPipe in place of its detector."""

import itertools

import numpy as np
import pytest

from portrait_jax.face.crops import face_box
from portrait_jax.face.detector import FaceDetector
from portrait_jax.face.five_points import TEMPLATE, five_points, similarity, template_face
from portrait_jax.face.intensity import RELEASED
from portrait_jax.face.squares import driving_crops, driving_levels, paste, source_crop
from portrait_jax.media.image import read_image
from portrait_jax.media.video import read_frames

FRAMES = 3


@pytest.fixture(scope="module")
def detector(face_landmarker_path):
    with FaceDetector(face_landmarker_path, "largest") as made:
        yield made


def test_portraits_are_cut_recognised_and_pasted_back(samples_dir, detector):
    paths = sorted(path for path in (samples_dir / "portraits").iterdir() if path.suffix in (".jpg", ".png"))
    assert paths
    for path in paths[:2]:
        picture = read_image(path)
        source = source_crop(picture, face_box(detector.detect(picture, path).landmarks_px))
        points = five_points(detector.detect(source.image, path).landmarks_px)
        matrix = similarity(points, TEMPLATE)
        off = np.abs(points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE).max()
        assert off < 20, f"{path}: no face like the template's, a point lies {off:.0f} pixels off"
        assert template_face(source.image, points).std() > 10
        back = paste(source.image, picture, source.square)
        assert np.abs(back.astype(int) - picture).mean() < 3


def test_a_driver_becomes_crops_and_intensities(samples_dir, detector):
    paths = sorted(path for path in (samples_dir / "driving").iterdir() if path.suffix in (".mp4", ".mov", ".webm"))
    assert paths
    frames = list(itertools.islice(read_frames(paths[0]), FRAMES))
    landmarks = np.stack([detector.detect(frame, paths[0], i).landmarks_px for i, frame in enumerate(frames)])
    points, box = five_points(landmarks), face_box(landmarks[0])
    made = driving_crops(frames[0], points[0], box)
    assert made["faces"].shape == made["heads"].shape == (256, 256, 3)
    assert made["faces"].std() > 10
    assert 0 <= driving_levels(points, RELEASED)["head_level"].max() <= 127
    # The crop for expressions holds eyes and mouth: the detector finds a face in it still, about in its middle.
    seen = five_points(detector.detect(made["faces"], paths[0], 0).landmarks_px)
    assert ((seen > 0) & (seen < 256)).all() and np.abs(seen.mean(0) - 128).max() < 60
