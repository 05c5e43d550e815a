"""Protects: the driving signal of a file or a sequence, at any frame rate, with pictures spread over all of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.animation.driving import THUMBNAIL, Thumbnails, load_driving, resample
from portrait_jax.errors import InputFileError
from portrait_jax.face.alignment import LandmarkSequence, load_landmarks
from tests.animation import scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("driving")
    scene.fill(path)
    return path


@pytest.fixture(scope="module")
def clip():
    return scene.make_clip()


def moving(frames: int, fps: float) -> LandmarkSequence:
    """Every coordinate is the frame's time in seconds."""
    time = (np.arange(frames) / fps).astype(np.float32)
    return LandmarkSequence(fps, 64, 64, np.broadcast_to(time[:, None, None], (frames, 478, 3)).copy())


@given(frames=st.integers(1, 60), fps=st.sampled_from([12.5, 24.0, 25.0, 30000 / 1001]), wanted=st.floats(5, 120))
def test_resampling_keeps_duration_and_motion(frames, fps, wanted):
    found = resample(moving(frames, fps), wanted)
    count = len(found.landmarks)
    assert found.fps == wanted and found.landmarks.dtype == np.float32
    assert abs(count / wanted - frames / fps) <= 0.5 / wanted + 1e-6 or count == 1
    expected = np.minimum(np.arange(count) / wanted, (frames - 1) / fps)
    np.testing.assert_allclose(found.landmarks[:, 0, 0], expected, atol=1e-4)


def test_expression_is_resampled_with_the_landmarks():
    sequence = moving(9, 25.0)
    scored = sequence._replace(expression=sequence.landmarks[:, 0, 0])
    found = resample(scored, 40.0)
    np.testing.assert_allclose(found.expression, found.landmarks[:, 0, 0], atol=1e-6)
    assert resample(sequence, 40.0).expression is None


def test_a_videos_expression_is_the_sum_of_its_scores_and_survives_the_cache(folder, clip, tmp_path):
    class Scored(scene.fake_detector(clip)):
        def detect(self, image, source="the image", frame=None):
            found = super().detect(image, source, frame)
            return found._replace(blendshapes=np.full(52, (frame or 0) + 1, np.float32))

    for _ in range(2):
        driving = load_driving(folder / "driving.mp4", detector=Scored, cache=tmp_path)
        np.testing.assert_allclose(driving.sequence.expression, 51 * np.arange(1, scene.FRAMES + 1))


def test_a_sequence_at_its_own_rate_is_itself():
    sequence = moving(5, 25.0)
    assert resample(sequence, None) is sequence and resample(sequence, 25.0) is sequence


@given(frames=st.integers(1, 300), least=st.integers(1, 12))
def test_thumbnails_are_few_even_and_reach_the_end(frames, least):
    keeper = Thumbnails(least)
    picture = np.zeros((4, 6, 3), np.uint8)
    passed = sum(1 for _ in keeper.watch(picture for _ in range(frames)))
    assert passed == frames and keeper.size == (4, 6)
    assert min(frames, least) <= len(keeper.images) == len(keeper.numbers) < 2 * least
    steps = set(np.diff(keeper.numbers).tolist())
    assert keeper.numbers[0] == 0 and len(steps) <= 1
    assert frames - 1 - keeper.numbers[-1] < max(steps, default=2 * frames)


def test_thumbnails_show_the_frames_that_they_name():
    keeper = Thumbnails(4)
    list(keeper.watch(np.full((8, 8, 3), number, np.uint8) for number in range(50)))
    assert [int(image[THUMBNAIL // 2, THUMBNAIL // 2, 0]) for image in keeper.images] == keeper.numbers


def test_a_video_gives_its_landmarks_rate_and_pictures(folder, clip):
    told = []
    driving = load_driving(
        folder / "driving.mp4", detector=scene.fake_detector(clip), report=lambda *report: told.append(report)
    )
    assert driving.sequence.fps == pytest.approx(scene.NTSC)
    assert (driving.sequence.width, driving.sequence.height) == (scene.SIZE, scene.SIZE)
    np.testing.assert_array_equal(driving.sequence.landmarks, clip["landmarks"])
    assert driving.thumbnail_frames == list(range(scene.FRAMES)) and len(driving.thumbnails) == scene.FRAMES
    assert told == [("finding the face", n + 1, scene.FRAMES) for n in range(scene.FRAMES)]


def test_a_stored_sequence_needs_no_detector_and_shows_drawings(folder, clip):
    def no_detector():
        raise AssertionError("a detector was opened")

    driving = load_driving(folder / "driving.npz", detector=no_detector)
    np.testing.assert_allclose(driving.sequence.landmarks, clip["landmarks"], atol=1 / 64)
    assert len(driving.thumbnails) == 8 and driving.thumbnail_frames[::7] == [0, scene.FRAMES - 1]
    assert all(image.std() > 1 for image in driving.thumbnails)


def test_the_cache_gives_exactly_what_the_first_run_saw(folder, clip, tmp_path):
    first = load_driving(folder / "driving.mp4", detector=scene.fake_detector(clip), cache=tmp_path)
    again = load_driving(
        folder / "driving.mp4", detector=scene.fake_detector(clip, AssertionError("searched again")), cache=tmp_path
    )
    np.testing.assert_array_equal(first.sequence.landmarks, again.sequence.landmarks)
    np.testing.assert_array_equal(first.thumbnails, again.thumbnails)
    assert first.sequence.fps == again.sequence.fps and first.thumbnail_frames == again.thumbnail_frames


def test_half_a_cache_is_no_cache(folder, clip, tmp_path):
    load_driving(folder / "driving.mp4", detector=scene.fake_detector(clip), cache=tmp_path)
    (tmp_path / "thumbnails.npz").unlink()
    (tmp_path / "driving.npz").write_bytes(b"half")
    load_driving(folder / "driving.mp4", detector=scene.fake_detector(clip), cache=tmp_path)
    assert len(load_landmarks(tmp_path / "driving.npz").landmarks) == scene.FRAMES


def test_a_broken_sequence_is_named(tmp_path):
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(InputFileError, match=r"x\.npz is not a landmark sequence"):
        load_driving(tmp_path / "x.npz")
