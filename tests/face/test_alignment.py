"""Cross-identity driving: the reference keeps its own face and takes over the driver's motion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.synthetic import render, sample_identity, sample_performance
from portrait_jax.errors import ConfigError, InputFileError, ShapeError
from portrait_jax.face.alignment import (
    ROTATIONS,
    Alignment,
    LandmarkSequence,
    load_landmarks,
    neutral_frame,
    save_landmarks,
)
from portrait_jax.face.detector import FaceDetector
from portrait_jax.face.measures import eye_opening, fit_pose, head_pose, mouth_opening, yaw
from portrait_jax.face.topology import EXPRESSION_POINTS, EYES, INNER_LIPS, LIP_PAIRS
from portrait_jax.media.image import read_image
from portrait_jax.media.video import read_frames
from tests.face.faces import make_face, placed

angle = st.floats(-35, 35)
REFERENCE = make_face(mouth=0.0, mouth_width=3.0, eye_height=1.4, gaze=(0.1, 0.0))


def retarget(driving, reference, **settings):
    """Moves the reference by a whole clip."""
    return Alignment.of(driving, reference, **settings)(driving)


def clip(*faces):
    return np.stack([placed(face) if face.shape == (478, 3) and face.dtype != np.float32 else face for face in faces])


@pytest.mark.parametrize("mode", ROTATIONS)
def test_frames_come_out_alike_alone_and_in_the_whole_clip(mode):
    driving = np.stack([placed(make_face(mouth=0.1 * i), yaw=2.0 * i, at=(90.0 + i, 80.0)) for i in range(7)])
    alignment = Alignment.of(driving, placed(REFERENCE, yaw=10.0), mode=mode)
    whole = alignment(driving)
    assert np.ptp(whole, axis=0).max() > 1, "nothing moves"
    for part in (slice(0, 3), slice(3, 7), slice(6, 7)):
        np.testing.assert_allclose(alignment(driving[part]), whole[part], atol=1e-4)


def test_the_neutral_frame_of_a_long_clip_lies_where_it_lies():
    opened, closed = placed(make_face(mouth=1.0)), placed(make_face(mouth=0.0))
    clip = np.repeat(opened[None], 1300, axis=0)
    clip[1111] = closed
    assert neutral_frame(clip) == 1111


@given(angle, angle, angle, st.sampled_from(ROTATIONS), st.floats(0, 2))
def test_a_driver_that_is_the_reference_itself_changes_nothing(a, b, c, mode, mouth):
    face = placed(make_face(mouth=mouth, gaze=(0.2, -0.1)), a, b, c)
    np.testing.assert_allclose(retarget(face[None], face, mode=mode)[0], face, atol=2e-3)


@given(st.lists(st.tuples(angle, angle, angle, st.floats(0, 2), st.floats(0.2, 1.2)), min_size=1, max_size=5))
def test_driving_a_face_by_its_own_clip_gives_the_clip(frames):
    driving = np.stack([
        placed(make_face(mouth=m, eyes=e), a, b, c, scale=9 + m, at=(100 + a, 90)) for a, b, c, m, e in frames
    ])  # fmt: skip
    result = retarget(driving, driving[0], neutral_index=0)
    np.testing.assert_allclose(result, driving, atol=5e-3)


@given(angle, angle, angle)
def test_a_pure_head_rotation_of_the_driver_rotates_the_reference(a, b, c):
    driver, reference = make_face(mouth_width=5.0, gaze=(0.1, 0.0)), placed(REFERENCE, scale=6.0, at=(60.0, 70.0))
    pivot = fit_pose(placed(driver)).translation
    turned = placed(driver, a, b, c)
    turned += (pivot - fit_pose(turned).translation).astype(np.float32)
    result = retarget(clip(driver, turned), reference, neutral_index=0)
    np.testing.assert_allclose(result[0], reference, atol=0.01)
    np.testing.assert_allclose(head_pose(result[1]), (a, b, c), atol=0.3)
    here, there = fit_pose(reference), fit_pose(result[1])
    np.testing.assert_allclose(there.remove(result[1]), here.remove(reference), atol=0.01)
    np.testing.assert_allclose(there.translation, here.translation, atol=0.05)


@given(angle, angle)
def test_relative_rotation_adds_the_drivers_turn_to_the_references_own_pose(start, turn):
    driver, reference = make_face(), placed(REFERENCE, yaw=12.0)
    driving = np.stack([placed(driver, yaw=start), placed(driver, yaw=start + turn)])
    absolute, relative = (retarget(driving, reference, mode=mode) for mode in ROTATIONS)
    np.testing.assert_allclose(yaw(absolute), (start, start + turn), atol=0.5)
    np.testing.assert_allclose(yaw(relative), (12.0, 12.0 + turn), atol=0.5)


@given(st.floats(0.5, 2.5), st.floats(2.5, 6.0), angle)
def test_opening_the_drivers_mouth_opens_the_references_in_proportion_to_faces_and_mouths(opening, width, turn):
    closed, opened = (make_face(mouth=m, mouth_width=width) for m in (0.0, opening))
    driving = np.stack([placed(closed), placed(opened, yaw=turn, scale=17.0)])
    result = retarget(driving, placed(REFERENCE), neutral_index=0)
    assert mouth_opening(result[0]) < 1e-3
    assert mouth_opening(result[1]) == pytest.approx(mouth_opening(driving[1]) * (3.0 / width) ** 0.5, rel=0.02)


@given(st.floats(0.0, 1.0), st.floats(0.6, 1.6))
def test_lids_close_in_proportion_whatever_the_size_of_the_eyes(eyes, eye_height):
    driving = clip(make_face(eye_height=eye_height), make_face(eyes=eyes, eye_height=eye_height))
    reference = placed(REFERENCE)
    result = retarget(driving, reference, neutral_index=0)
    np.testing.assert_allclose(eye_opening(result[1]), eye_opening(reference) * eyes, atol=0.003)


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), angle)
def test_pupils_lie_where_they_lie_in_the_drivers_eyes(across, down, roll):
    driving = np.stack([placed(make_face(gaze=(across, down)), roll=roll)])
    result = retarget(driving, placed(REFERENCE), neutral_index=0)
    local = fit_pose(result[0]).remove(result[0])
    for eye in EYES:
        contour = local[list(eye.contour), :2]
        low, high = contour.min(0), contour.max(0)
        place = 2 * (local[eye.iris[0], :2] - low) / (high - low) - 1
        np.testing.assert_allclose(place, (across, down), atol=0.05)


def test_a_closed_eye_keeps_its_pupil_near_the_lids():
    driving = clip(make_face(), make_face(eyes=0.0, gaze=(0.0, 0.3)))
    result = retarget(driving, placed(REFERENCE), neutral_index=0)[1]
    assert np.isfinite(result).all()
    for eye in EYES:
        contour = result[list(eye.contour), :2]
        width = np.ptp(contour[:, 0])
        assert np.abs(result[eye.iris[0], :2] - contour.mean(0)).max() < 0.25 * width


def test_lips_do_not_cross_when_the_driver_closes_more_than_the_reference_can():
    driving = clip(make_face(mouth=2.0), make_face(mouth=0.0))
    result = retarget(driving, placed(make_face(mouth=0.5)), neutral_index=0)[1]
    upper, lower = np.array(LIP_PAIRS).T
    assert (result[lower, 1] - result[upper, 1] > -1e-3).all()


@given(st.floats(0.2, 5.0), st.floats(-300, 300), st.floats(-300, 300))
def test_size_and_place_of_the_driver_in_its_frame_do_not_matter(scale, x, y):
    faces = [make_face(), make_face(mouth=1.5, eyes=0.4)]
    driving = np.stack([placed(faces[0]), placed(faces[1], yaw=15.0, scale=11.0, at=(150.0, 120.0))])
    moved = (driving * scale + np.array([x, y, 0])).astype(np.float32)
    reference = placed(REFERENCE)
    np.testing.assert_allclose(retarget(moved, reference), retarget(driving, reference), atol=0.02)


@given(st.floats(0.2, 5.0), st.floats(-300, 300), st.floats(-300, 300))
def test_scaling_and_moving_the_reference_scales_and_moves_the_result(scale, x, y):
    driving = np.stack([placed(make_face()), placed(make_face(mouth=1.5), yaw=15.0, scale=11.0, at=(150.0, 120.0))])
    reference, shift = placed(REFERENCE), np.array([x, y, 0])
    moved = (reference * scale + shift).astype(np.float32)
    expected = retarget(driving, reference) * scale + shift
    np.testing.assert_allclose(retarget(driving, moved), expected, atol=0.02)


def test_movement_since_the_first_frame_follows_in_proportion_to_the_faces():
    driving = np.stack([placed(make_face(), at=(100.0, 100.0)), placed(make_face(), at=(140.0, 90.0), scale=12.0)])
    reference = placed(REFERENCE, scale=5.0, at=(64.0, 64.0))
    first, second = (fit_pose(frame) for frame in retarget(driving, reference, neutral_index=0))
    before, after = fit_pose(driving[0]), fit_pose(driving[1])
    np.testing.assert_allclose(second.translation - first.translation,
                               (after.translation - before.translation) * 0.5, atol=0.05)  # fmt: skip
    assert second.scale / first.scale == pytest.approx(1.2, rel=1e-3)


def test_strength_scales_the_expression_and_not_the_pose():
    driving = np.stack([placed(make_face(mouth=0.0)), placed(make_face(mouth=2.0), yaw=20.0)])
    none, half, full = (retarget(driving, placed(REFERENCE), neutral_index=0, strength=s)[1] for s in (0, 0.5, 1))
    assert mouth_opening(none) < 1e-3 and mouth_opening(half) == pytest.approx(mouth_opening(full) / 2, rel=0.01)
    assert yaw(none) == pytest.approx(yaw(full), abs=0.1)


def test_the_neutral_frame_is_closed_frontal_and_no_blink():
    normal = [placed(make_face(mouth=m, brows=0.1 * m)) for m in (1.0, 0.8, 1.2)]
    wanted = placed(make_face(mouth=0.05))
    blink, turned = placed(make_face(mouth=0.0, eyes=0.0)), placed(make_face(mouth=0.0), yaw=40.0)
    assert neutral_frame(np.stack([*normal, blink, turned, wanted, *normal])) == 5


def test_mistakes_are_named():
    driving = clip(make_face())
    with pytest.raises(ConfigError, match="did you mean 'relative'"):
        retarget(driving, driving[0], mode="relativ")
    with pytest.raises(ConfigError, match="clip of 1 frames"):
        retarget(driving, driving[0], neutral_index=3)
    with pytest.raises(ShapeError, match="no driving frames to align; give"):
        retarget(driving[:0], driving[0])


def test_procedural_portraits_move_as_they_would_with_the_drivers_performance():
    performance = sample_performance(3, frames=24)
    shown = range(0, 24, 4)
    for seed in (2, 10):
        driving, truth = (
            np.stack([render(sample_identity(s), performance.pose[k], performance.expression[k], 64).landmarks
                      for k in shown]).astype(np.float32)
            for s in (seed, seed + 1)
        )  # fmt: skip
        result = retarget(driving, truth[0], neutral_index=0)
        error, motion = (np.linalg.norm((points - truth)[1:, list(EXPRESSION_POINTS), :2], axis=-1).mean()
                         for points in (result, truth[:1]))  # fmt: skip
        assert error < 0.25 * motion


@pytest.fixture(scope="module")
def real(samples_dir, face_landmarker_path):
    """Landmarks of twelve driving frames with strong expressions and of three portraits."""
    frames = list(read_frames(samples_dir / "driving" / "expressions_25fps.mp4"))[30:230:17]
    with FaceDetector(face_landmarker_path) as detector:
        driving = detector.detect_video(frames, "driving").landmarks_px
        portraits = [detector.detect(read_image(path), path).landmarks_px
                     for path in sorted((samples_dir / "portraits").iterdir())]  # fmt: skip
    return driving, portraits


def test_real_expressions_reach_real_portraits(real):
    driving, portraits = real
    for portrait in portraits:
        result = retarget(driving, portrait)
        assert np.corrcoef(mouth_opening(driving), mouth_opening(result))[0, 1] > 0.95
        assert np.corrcoef(eye_opening(driving).mean(-1), eye_opening(result).mean(-1))[0, 1] > 0.95
        np.testing.assert_allclose(head_pose(result), head_pose(driving), atol=4.0)
        # The neutral frame shows the portrait's own features, merely turned.
        neutral = neutral_frame(driving)
        shape, own = (fit_pose(face).remove(face)[list(INNER_LIPS)] for face in (result[neutral], portrait))
        assert np.abs(shape - own).mean() < 0.05  # Of a face about 15 units wide.


def test_stored_landmarks_come_back(tmp_path):
    driving = clip(make_face(), make_face(mouth=1.0))
    save_landmarks(tmp_path / "a.npz", LandmarkSequence(25.0, 256, 128, driving))
    read = load_landmarks(tmp_path / "a.npz")
    assert read[:3] == (25.0, 256, 128) and read.landmarks.dtype == np.float32
    np.testing.assert_allclose(read.landmarks, driving, atol=1 / 128)
    many = np.tile(driving, (700, 1, 1)) + np.arange(1400, dtype=np.float32)[:, None, None]
    save_landmarks(tmp_path / "b.npz", LandmarkSequence(25.0, 256, 128, many))
    np.testing.assert_allclose(load_landmarks(tmp_path / "b.npz").landmarks, many, atol=1 / 128)
    with np.load(tmp_path / "b.npz") as stored:
        assert set(stored.files) == {"landmarks", "fps", "size"} and stored["fps"].shape == ()
    scored = LandmarkSequence(25.0, 256, 128, driving, np.arange(len(driving), dtype=np.float32))
    save_landmarks(tmp_path / "c.npz", scored)
    np.testing.assert_array_equal(load_landmarks(tmp_path / "c.npz").expression, scored.expression)


def _npz(path, **changed):
    fields = {"landmarks": np.zeros((2, 478, 3), np.float32), "fps": np.float64(25), "size": np.array([64, 64])}
    np.savez(path, **{name: value for name, value in (fields | changed).items() if value is not None})


class _Dangerous:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("make, words", [
    (lambda path: path.write_text("hello"), "not a landmark sequence"),
    (lambda path: path.touch(), "empty"),
    (lambda path: _npz(path, fps=None), "fps"),
    (lambda path: _npz(path, landmarks=np.zeros((2, 68, 3))), r"\(2, 68, 3\)"),
    (lambda path: _npz(path, landmarks=np.full((2, 478, 3), np.nan)), "not finite"),
    (lambda path: _npz(path, landmarks=np.array([_Dangerous()], object)), "allow_pickle"),
    (lambda path: _npz(path, size=np.array([0, 10**9])), "out of range"),
    (lambda path: _npz(path, expression=np.zeros(3, np.float32)), "not one finite number a frame"),
    (lambda path: _npz(path, expression=np.full(2, np.inf)), "not one finite number a frame"),
])  # fmt: skip
def test_files_that_are_no_landmarks_are_refused_by_name(tmp_path, make, words):
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(InputFileError, match=words) as caught:
        load_landmarks(path)
    assert "a.npz" in str(caught.value)
