"""Protects: what is stored comes back, and damage to it is named."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data import records, schema, synthetic
from data.builder import open_split
from portrait_jax.errors import ShapeError, VideoError


def test_a_clip_survives_encoding(clip, record):
    for name in ("landmarks", "face_box", "pose", "expression", "audio", "attributes"):
        np.testing.assert_array_equal(record[name], clip[name])
    np.testing.assert_array_equal(records.unpack_mask(record), clip["face_mask"])
    decoded = records.decode_frames(record["video"], range(14))
    error = np.abs(decoded.astype(int) - clip["frames"]).mean(axis=(1, 2, 3))
    assert error.max() < 6
    assert np.abs(decoded[0].astype(int) - clip["frames"][13]).mean() > 1.5 * error[0]


def test_frames_come_in_the_order_asked_for(record):
    everything = records.decode_frames(record["video"], range(14))
    asked = [13, 0, 5, 5]
    np.testing.assert_array_equal(records.decode_frames(record["video"], asked), everything[asked])


def test_only_needed_groups_of_pictures_are_decoded(record, monkeypatch):
    lengths = []
    original = records._decode
    monkeypatch.setattr(
        records, "_decode", lambda context, group: lengths.append(len(group)) or original(context, group)
    )
    records.decode_frames(record["video"], [12])
    assert lengths == [2]


def test_shards_hold_the_same_record_as_the_generator(portraits, tiny):
    source = open_split(portraits, "test")
    stored = records.normalise(source[1])
    seed = synthetic.split_seed("test", 1)
    performance = synthetic.sample_performance(seed, tiny.frames)
    drawn = synthetic.render_clip(synthetic.sample_identity(seed), performance, tiny.size)
    np.testing.assert_array_equal(stored["landmarks"], drawn["landmarks"])
    np.testing.assert_array_equal(stored["audio"], drawn["audio"])
    np.testing.assert_array_equal(records.unpack_mask(stored), drawn["face_mask"])
    assert stored["clip_id"] == "test_000001_000"
    schema.check(stored)


def test_broken_video_bytes_are_an_error_that_names_the_clip(record):
    with pytest.raises(VideoError, match="clip a.*prepare"):
        records.decode_frames(b"no video at all", [0], "clip a")
    with pytest.raises(VideoError):
        records.decode_frames(record["video"][:3000], [13])
    with pytest.raises(VideoError, match="clip a has no frame 14"):
        records.decode_frames(record["video"], [14], "clip a")


def test_a_damaged_mask_names_the_clip_and_fills_no_memory(record):
    bomb = zlib.compress(bytes(10**8))
    for wrong, message in ((record["face_mask"][:20], "size"), (b"no zlib", "damaged"), (bomb, "size")):
        with pytest.raises(ShapeError, match=f"clip a: .*{message}"):
            records.unpack_mask({**record, "face_mask": wrong})


@given(arrays.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_masks_of_any_size_survive_packing(mask):
    frames, height, width = mask.shape
    sizes = {"clip_id": "a", "num_frames": frames, "height": height, "width": width}
    packed = {**sizes, "face_mask": records.pack_mask(mask)}
    np.testing.assert_array_equal(records.unpack_mask(packed), mask)
