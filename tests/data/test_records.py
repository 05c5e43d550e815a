"""Protects: what is stored comes back, and what does not fit the schema is refused before it is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data import parts, records, schema, synthetic
from data.builder import open_split
from portrait_jax.errors import InputFileError, ShapeError, VideoError

NAMES = {"clip_id": "a", "source": "nowhere", "identity": "nobody", "caption": "räksmörgås"}


@pytest.fixture(scope="module")
def clip():
    performance = synthetic.sample_performance(3, 14)
    return {**synthetic.render_clip(synthetic.sample_identity(2), performance, 64), **NAMES}


@pytest.fixture(scope="module")
def record(clip):
    return records.encode_clip(clip)


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


def test_a_part_file_gives_the_same_record(record, tmp_path):
    parts.save_part(tmp_path / "a.npz", record)
    assert records.digest(parts.load_part(tmp_path / "a.npz")) == records.digest(record)


def test_a_truncated_part_file_is_named(record, tmp_path):
    parts.save_part(tmp_path / "a.npz", record)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    with pytest.raises(InputFileError, match="a.npz is damaged"):
        parts.load_part(tmp_path / "a.npz")


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("landmarks", np.zeros((3, 478, 3), np.float32), "landmarks is float32"),
        ("pose", np.zeros((14, 6), np.float64), "pose is float64"),
        ("landmarks", np.full((14, 478, 3), np.nan, np.float32), "not finite"),
        ("video", b"", "video is empty"),
        ("caption", b"bytes", "caption is bytes"),
        ("fps", np.float32(0), "fps is"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(record, name, value, message):
    with pytest.raises(ShapeError, match=message):
        schema.check({**record, name: value})


def test_a_missing_field_is_named(record):
    with pytest.raises(ShapeError, match="pose"):
        schema.check({name: value for name, value in record.items() if name != "pose"})


def test_broken_video_bytes_are_an_error_of_their_own(record):
    with pytest.raises(VideoError):
        records.decode_frames(b"no video at all", [0])
    with pytest.raises(VideoError):
        records.decode_frames(record["video"][:3000], [13])
    with pytest.raises(VideoError, match="no frame 14"):
        records.decode_frames(record["video"], [14])


@given(arrays.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_masks_of_any_size_survive_packing(mask):
    frames, height, width = mask.shape
    packed = {"num_frames": frames, "height": height, "width": width, "face_mask": records.pack_mask(mask)}
    np.testing.assert_array_equal(records.unpack_mask(packed), mask)
