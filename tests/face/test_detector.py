"""One face comes out of a real picture; every other case has its message."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.errors import InputFileError, MultipleFacesError, NoFaceError, PortraitError
from portrait_jax.face import detector as detector_module
from portrait_jax.face.detector import Detection, FaceDetector, _fill_gaps, model_path
from portrait_jax.face.topology import EYES, JAW
from portrait_jax.media.image import read_image

GREY = np.full((96, 96, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def detector(face_landmarker_path):
    with FaceDetector(face_landmarker_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def portrait(samples_dir):
    return read_image(samples_dir / "portraits" / "frontal.png")


def test_landmarks_of_a_real_portrait_lie_on_the_face(detector, portrait):
    found = detector.detect(portrait, "frontal.png")
    points = found.landmarks_px
    assert points.shape == (478, 3) and points.dtype == np.float32
    assert found.blendshapes.shape == (52,) and found.matrix.shape == (4, 4)
    right, left = (points[list(eye.contour), :2].mean(0) for eye in EYES)
    assert right[0] < left[0] and abs(right[1] - left[1]) < 20  # The subject's right eye lies at image left.
    assert points[152, 1] > points[list(JAW), 1].mean() > right[1]
    assert points[4, 2] < points[[33, 263], 2].min()  # The nose is nearer than the eyes.


def test_landmarks_scale_with_the_picture(detector, portrait):
    half = portrait[::2, ::2]
    difference = detector.detect(portrait).landmarks_px / 2 - detector.detect(half).landmarks_px
    assert np.abs(difference[:, :2]).mean() < 1.0


def test_a_picture_without_a_face_names_file_and_frame(detector):
    with pytest.raises(NoFaceError, match=r"no face found in wall\.mp4, frame 7; use"):
        detector.detect(GREY, "wall.mp4", 7)


def test_two_faces_are_refused_unless_one_is_chosen(detector, face_landmarker_path, portrait):
    small = portrait[::2, ::2]
    both = np.concatenate([np.pad(small, ((128, 128), (0, 0), (0, 0))), portrait], axis=1)
    with pytest.raises(MultipleFacesError, match=r"faces found in pair\.png.*largest"):
        detector.detect(both, "pair.png")
    for face, on_the_left in (("largest", False), (0, True), ("1", False)):
        with FaceDetector(face_landmarker_path, face=face) as choosing:
            assert (choosing.detect(both).landmarks_px[4, 0] < small.shape[1]) == on_the_left
    with FaceDetector(face_landmarker_path, face=3) as choosing, pytest.raises(NoFaceError, match="number 3"):
        choosing.detect(both)


@pytest.mark.parametrize("image", [
    np.zeros((64, 64, 4), np.uint8),
    np.zeros((64, 64), np.uint8),
    np.zeros((64, 64, 3), np.float32),
])  # fmt: skip
def test_images_in_which_mediapipe_would_silently_find_nothing_are_refused(detector, image):
    with pytest.raises(Exception, match=r"uint8|UInt8"):
        detector.detect(image)


def test_a_closed_detector_says_so(face_landmarker_path, portrait):
    with FaceDetector(face_landmarker_path) as opened:
        pass
    with pytest.raises(PortraitError, match="closed"):
        opened.detect(portrait)


def test_short_gaps_in_a_video_are_filled(detector, portrait):
    moved = np.roll(portrait, 8, axis=1)
    clip = detector.detect_video([GREY, portrait, GREY, moved], "clip.mp4", max_gap=1)
    assert clip.found.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(clip.landmarks_px[0], clip.landmarks_px[1])
    np.testing.assert_allclose(clip.landmarks_px[2], clip.landmarks_px[[1, 3]].mean(0), atol=0.01)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 4))
def test_gaps_are_filled_exactly_when_they_are_short_enough(known, max_gap):
    def at(i):
        return Detection(np.full((478, 3), i, np.float32), np.zeros(52, np.float32), np.eye(4, dtype=np.float32))

    found = [at(i) if yes else None for i, yes in enumerate(known)]
    runs = "".join("x" if yes else "." for yes in known).split("x")
    if not any(known) or max(map(len, runs)) > max_gap:
        with pytest.raises(NoFaceError, match=r"clip\.mp4"):
            _fill_gaps(found, "clip.mp4", max_gap)
        return
    filled = _fill_gaps(found, "clip.mp4", max_gap)
    first, last = np.flatnonzero(known)[[0, -1]]
    np.testing.assert_allclose(filled.landmarks_px[:, 0, 0], np.clip(np.arange(len(known)), first, last), atol=1e-5)


def test_a_long_gap_names_its_frames():
    one = Detection(np.zeros((478, 3), np.float32), np.zeros(52, np.float32), np.eye(4, dtype=np.float32))
    with pytest.raises(NoFaceError, match="frames 1–5 of clip"):
        _fill_gaps([one, *[None] * 5, one], "clip.mp4", 4)


def test_the_model_is_looked_for_in_the_argument_then_the_environment(face_landmarker_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PORTRAIT_FACE_LANDMARKER", str(tmp_path / "none.task"))
    assert model_path(face_landmarker_path) == face_landmarker_path
    with pytest.raises(InputFileError, match=r"none\.task does not exist"):
        model_path()


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.task").write_text("nothing")
    with pytest.raises(InputFileError, match="not a face model"):
        FaceDetector(tmp_path / "a.task")


class _Response:
    def __init__(self, data):
        self.data = data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read(self, limit):
        return self.data[:limit]


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("PORTRAIT_FACE_LANDMARKER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_model_is_downloaded_once_into_the_cache(face_landmarker_path, empty_cache, monkeypatch, capsys):
    calls = []

    def open_url(url, timeout):
        calls.append(url)
        return _Response(face_landmarker_path.read_bytes())

    monkeypatch.delenv("PORTRAIT_FACE_LANDMARKER", raising=False)
    monkeypatch.setattr(detector_module.urllib.request, "urlopen", open_url)
    assert model_path() == model_path() and calls == [detector_module.MODEL_URL]
    assert "downloading" in capsys.readouterr().err


@pytest.mark.parametrize("answer, words", [(OSError("no route"), "fetch https://"), (b"<html>", "gave 6 bytes")])
def test_a_failed_download_tells_what_to_do_and_leaves_nothing(empty_cache, monkeypatch, answer, words):
    def open_url(url, timeout):
        if isinstance(answer, Exception):
            raise answer
        return _Response(answer)

    monkeypatch.setattr(detector_module.urllib.request, "urlopen", open_url)
    with pytest.raises(PortraitError, match=words):
        model_path()
    assert not [path for path in empty_cache.rglob("*") if path.is_file()]


def test_an_unknown_choice_of_face_is_refused():
    with pytest.raises(PortraitError, match="'largest'"):
        FaceDetector(face="smallest")


def test_a_number_beyond_the_faces_tells_how_they_are_counted():
    detector = FaceDetector.__new__(FaceDetector)
    detector._landmarker, detector._face = None, "1"
    with pytest.raises(
        NoFaceError, match=r"face number 1 .*a\.png shows 1; numbers count from the left and begin with 0"
    ):
        detector._choose([np.zeros((478, 3), np.float32)], "a.png")


def test_a_missing_mediapipe_is_explained(face_landmarker_path, monkeypatch):
    monkeypatch.setattr(detector_module, "_unavailable", OSError("libEGL.so.1: cannot open shared object file"))
    with pytest.raises(PortraitError, match=r"libEGL.*apt-get install"):
        FaceDetector(face_landmarker_path)
