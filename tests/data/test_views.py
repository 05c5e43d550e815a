"""Protects: stored and drawn clips look alike to the loader, and what is wrong with stored ones is named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.builder import STATISTICS
from data.views import RecordSource, RecordView, SyntheticSource, cut_audio
from portrait_jax.errors import ConfigError, VideoError


@given(st.integers(-40, 40), st.integers(1, 40), st.integers(0, 9000))
def test_sound_is_cut_in_step_with_frames_and_silent_beyond_both_ends(start, frames, length):
    audio = np.arange(1, length + 1, dtype=np.int16)
    cut = cut_audio(audio, start, frames, 25.0)
    assert cut.shape == (frames * 640,) and cut.dtype == np.float32
    sample = start * 640 + np.arange(frames * 640)
    inside = (sample >= 0) & (sample < length)
    np.testing.assert_array_equal(cut[inside] * 32768, audio[sample[inside]])
    assert not cut[~inside].any()


def test_a_stored_clip_shows_its_frames_and_landmarks_at_the_size_asked_for(record, clip):
    view = RecordView(record, 32, "here")
    assert view.num_frames == 14 and view.fps == 25
    assert view.frames([3, 0]).shape == (2, 32, 32, 3)
    np.testing.assert_allclose(view.landmarks([3, 0]), clip["landmarks"][[3, 0]] / 2, rtol=1e-6)
    np.testing.assert_array_equal(view.attributes, clip["attributes"])
    assert view.audio(2, 3).shape == (1920,)
    assert RecordView({**record, "caption": b"a talker"}, 32, "here").caption == "a talker"


def test_a_damaged_clip_is_named_with_its_data_set(record):
    damaged = {**record, "clip_id": b"talker_0003", "video": b"no video"}
    with pytest.raises(VideoError, match=r"clip talker_0003 in runs/a \(train\).*prepare"):
        RecordView(damaged, 32, "runs/a (train)").frames([0])


def test_a_data_set_of_frames_that_are_not_square_says_what_to_do(portraits, tmp_path):
    shutil.copytree(portraits, tmp_path / "set")
    statistics = json.loads((tmp_path / "set" / STATISTICS).read_text())
    statistics["splits"]["train"]["sizes"] = {"64x48": 5}
    (tmp_path / "set" / STATISTICS).write_text(json.dumps(statistics))
    with pytest.raises(ConfigError, match="64x48 pixels.*crop each clip to a square"):
        RecordSource(tmp_path / "set", "train", 64)


def test_a_drawn_person_stays_and_performs_anew_at_each_visit():
    source = SyntheticSource(3, 4, "train", 32, speech=True)
    assert len(source) == 3 and source.min_frames == 4
    one, again, other = (source.view(source[1], np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.frames([2]), again.frames([2]))
    np.testing.assert_array_equal(one.attributes, other.attributes)
    assert (one.landmarks([2]) != other.landmarks([2])).any()
    assert one.audio(0, 4).shape == (2560,)


def test_train_and_test_people_are_drawn_from_other_seeds():
    train, test = (SyntheticSource(3, 4, split, 32, speech=False) for split in ("train", "test"))
    assert not {train[i] for i in range(3)} & {test[i] for i in range(3)}
    assert train.identification != test.identification
