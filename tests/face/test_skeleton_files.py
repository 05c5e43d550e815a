"""Protects stored skeletons: they come back as they were, and whatever else is in a file is refused with its name."""

from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.errors import InputFileError, PortraitError
from portrait_jax.face import pose
from portrait_jax.face.skeleton import JOINTS, from_face
from portrait_jax.face.skeleton_files import SkeletonSequence, load_skeletons, save_skeletons
from tests.face.test_skeleton import POINTS


def test_a_sequence_comes_back_with_what_is_not_seen(tmp_path):
    points = np.stack([POINTS, POINTS + 1])
    points[1, 3] = np.nan
    save_skeletons(tmp_path / "a.npz", SkeletonSequence(29.97, 640, 360, points))
    found = load_skeletons(tmp_path / "a.npz")
    assert found[:3] == (29.97, 640, 360)
    np.testing.assert_array_equal(found.points, points)


GOOD = {"skeletons": POINTS[None], "fps": np.array(25.0), "size": np.array([128, 128])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skeletons": POINTS}, r"its array is \(12, 2\)"),
        ({"skeletons": np.zeros((0, 12, 2), np.float32)}, "its array is"),
        ({"skeletons": POINTS[None] * np.inf}, "not numbers"),
        ({"skeletons": np.zeros((1, 12, 2), int)}, "not numbers"),
        ({"fps": np.array(0.0)}, "out of range"),
        ({"fps": np.array("fast")}, "out of range"),
        ({"size": np.array([128, 0])}, "out of range"),
        ({"skeletons": np.array([{}], object)}, "Object arrays"),
    ],
)
def test_what_is_no_sequence_is_refused_by_name(tmp_path, change, message):
    np.savez(tmp_path / "bad.npz", **{**GOOD, **change})
    with pytest.raises(InputFileError, match=f"bad.npz is not a skeleton sequence.*{message}"):
        load_skeletons(tmp_path / "bad.npz")


def test_a_damaged_or_missing_file_is_named(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("cut.npz", "none.npz"):
        with pytest.raises(InputFileError, match=name):
            load_skeletons(tmp_path / name)


def test_a_face_tells_nose_eyes_and_ears():
    landmarks = np.random.default_rng(0).uniform(0, 100, (478, 3)).astype(np.float32)
    made = from_face(landmarks)
    seen = {name for name, point in zip(JOINTS, made) if np.isfinite(point).all()}
    assert seen == {"nose", "right_eye", "left_eye", "right_ear", "left_ear"}
    np.testing.assert_allclose(made[JOINTS.index("left_ear")], landmarks[454, :2])


def test_a_pose_model_is_the_users_to_name(monkeypatch, tmp_path):
    monkeypatch.delenv(pose.MODEL_VARIABLE, raising=False)
    with pytest.raises(InputFileError, match="--pose_landmarker or"):
        pose.PoseDetector()
    (tmp_path / "pose.task").write_bytes(b"no model")
    with pytest.raises(PortraitError, match="not a usable model for MediaPipe's PoseLandmarker"):
        pose.PoseDetector(tmp_path / "pose.task")


def test_landmarks_of_the_first_body_become_pixels(monkeypatch, tmp_path):
    (tmp_path / "pose.task").write_bytes(b"a model")
    body = [SimpleNamespace(x=0.5, y=0.25, visibility=1.0 if i != 16 else 0.1) for i in range(33)]
    answers = iter([[body], []])
    landmarker = SimpleNamespace(
        detect=lambda picture: SimpleNamespace(pose_landmarks=next(answers)), close=lambda: None
    )
    monkeypatch.setattr(pose.detector, "open_landmarker", lambda *args: landmarker)
    image = np.zeros((40, 80, 3), np.uint8)
    with pose.PoseDetector(tmp_path / "pose.task") as detector:
        found = detector.detect_video([image, image])
    np.testing.assert_allclose(found[0, JOINTS.index("neck")], [40, 10])
    assert np.isnan(found[0, JOINTS.index("right_wrist")]).all() and np.isnan(found[1]).all()
