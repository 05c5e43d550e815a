"""Protects: one bad moment costs a video that moment alone, and every frame is either in a clip or named."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import runs
from portrait_jax.errors import MultipleFacesError, NoFaceError, VideoError
from portrait_jax.face.detector import Detection

NOBODY, COUPLE, DAMAGE = NoFaceError("nobody"), MultipleFacesError("two"), VideoError("damaged")


def face(index: int) -> Detection:
    """A face whose every number is the frame's."""
    return Detection(
        np.full((478, 3), index, np.float32), np.full(52, index, np.float32), np.full((4, 4), index, np.float32)
    )


def film(frames: str):
    """A frame per letter: F a face, . nobody, 2 two faces, x damage."""
    other = {".": NOBODY, "2": COUPLE, "x": DAMAGE}
    return (other.get(letter) or face(index) for index, letter in enumerate(frames))


def cut(frames: str, max_gap=2, min_frames=2, max_frames=100):
    """Pieces as (kind of piece or error, start, stop)."""
    pieces = runs.clips(runs.bridged(film(frames), max_gap), min_frames, max_frames)
    return [(type(getattr(piece, "error", piece)).__name__, piece.start, piece.stop) for piece in pieces]


def test_a_short_gap_is_filled_on_the_straight_way():
    (clip,) = runs.clips(runs.bridged(film("F..FF"), 2), 2, 100)
    np.testing.assert_allclose(clip.landmarks_px[:, 7, 1], range(5), rtol=1e-6)
    np.testing.assert_allclose(clip.blendshapes[:, 3], range(5), rtol=1e-6)


def test_a_long_gap_ends_a_run_and_the_next_begins_behind_it():
    assert cut("FFF...FFFF") == [("Clip", 0, 3), ("NoFaceError", 3, 6), ("Clip", 6, 10)]


@pytest.mark.parametrize("bad", ["2", "2.", ".2", "22"])
def test_a_second_face_ends_a_run_however_short_it_stays(bad):
    stop = 3 + len(bad)
    assert cut(f"FFF{bad}FF") == [("Clip", 0, 3), ("MultipleFacesError", 3, stop), ("Clip", stop, stop + 2)]


def test_frames_without_a_face_at_the_ends_belong_to_no_clip():
    assert cut(".FF.") == [("NoFaceError", 0, 1), ("Clip", 1, 3), ("NoFaceError", 3, 4)]
    assert cut("...") == [("NoFaceError", 0, 3)]


def test_runs_are_cut_into_clips_and_a_short_rest_is_named():
    assert cut("F" * 9, max_frames=4) == [("Clip", 0, 4), ("Clip", 4, 8), ("VideoError", 8, 9)]
    assert cut("F.....FF") == [("VideoError", 0, 1), ("NoFaceError", 1, 6), ("Clip", 6, 8)]


def test_damage_keeps_what_came_before_and_leaves_the_end_open():
    assert cut("FFF.x") == [("Clip", 0, 3), ("VideoError", 3, None)]


@given(st.text("FFFF.2", max_size=60), st.integers(0, 4), st.integers(1, 5), st.integers(5, 9))
def test_every_frame_is_in_one_piece_and_clips_hold_single_faces(frames, max_gap, min_frames, max_frames):
    position = 0
    for kind, start, stop in cut(frames, max_gap, min_frames, max_frames):
        assert start == position < stop
        if kind == "Clip":
            assert min_frames <= stop - start <= max_frames
            assert "2" not in frames[start:stop] and "." * (max_gap + 1) not in frames[start:stop]
        position = stop
    assert position == len(frames)


def test_a_clip_is_given_before_the_rest_of_the_video_is_read():
    read = []
    endless = (read.append(index) or face(index) for index in range(10**9))
    clips = list(islice(runs.clips(runs.bridged(endless, 2), 2, 5), 3))
    assert [clip.start for clip in clips] == [0, 5, 10] and len(read) == 15


class Detector:
    """Sees a face in every picture but those of one colour."""

    def detect(self, image, source="", frame=None):
        if image.max() == image.min():
            raise NoFaceError(f"no face found in {source}, frame {frame}")
        return face(frame)


def pictures(kinds: str):
    for kind in kinds:
        if kind == "x":
            raise VideoError("decoding failed")
        picture = np.zeros((4, 4, 3), np.uint8)
        picture[0, 0] = 255 * (kind == "F")
        yield picture


def test_each_frame_is_seen_by_its_number_until_the_file_is_damaged():
    seen = list(runs.detections(pictures("F.Fx"), Detector(), "a.mp4"))
    assert [type(item).__name__ for item in seen] == ["Detection", "NoFaceError", "Detection", "VideoError"]
    assert str(seen[1]) == "no face found in a.mp4, frame 1" and seen[2].blendshapes[0] == 2
    assert seen[1].__traceback__ is None, "it would keep the picture in memory"


def test_a_file_without_any_frame_is_an_error():
    with pytest.raises(VideoError, match="decoding failed"):
        list(runs.detections(pictures("x"), Detector(), "a.mp4"))
