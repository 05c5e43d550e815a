"""Protects: an example from a stylised copy shows the clip's frames in the copy's style, and keeps the clip's own as its driver."""

from __future__ import annotations

import numpy as np
import pytest

from data.pipeline import make_loader
from data.stylised import copies_of, draw_copy
from data.views import RecordSource
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.media.video import VideoWriter

SIZE, FRAMES = 64, 3


@pytest.fixture(scope="module")
def source(portraits) -> RecordSource:
    return RecordSource(portraits, "train", SIZE)


@pytest.fixture(scope="module")
def copies(source, tmp_path_factory):
    """Negatives of all clips but the first."""
    folder = tmp_path_factory.mktemp("copies")
    for number in range(1, len(source)):
        view = source.view(source[number], np.random.default_rng(0))
        path = folder / view.clip_id / "negative.mp4" if number % 2 else folder / f"{view.clip_id}.mp4"
        path.parent.mkdir(exist_ok=True)
        with VideoWriter(path, view.fps) as writer:
            for frame in view.frames(range(view.num_frames)):
                writer.write(255 - frame)
    return folder


def load(portraits, copies, share, **settings):
    data = {"kind": "faces", "path": str(portraits), "size": SIZE, "stylised": str(copies), "stylised_share": share}
    with make_loader({**data, **settings}, global_batch=5, frames=FRAMES, threads=0) as loader:
        return next(loader)


def test_copies_are_drawn_as_often_as_is_asked_and_drive_in_their_own_style(portraits, copies):
    batch = load(portraits, copies, 1.0)
    assert batch["driving"].shape == batch["frames"].shape and batch["driving"].dtype == np.uint8
    frames, driving = batch["frames"].astype(int), batch["driving"].astype(int)
    negative = np.abs(frames - (255 - driving)).mean((1, 2, 3, 4)) < 12
    same = np.abs(frames - driving).mean((1, 2, 3, 4)) == 0
    assert negative.sum() == 4 and same.sum() == 1, "of five clips one has no copy"
    reference = batch["reference"].astype(int).mean((1, 2, 3))
    assert (np.abs(reference - frames.mean((1, 2, 3, 4))) < 20).all(), "the portrait is in the style of the frames"
    none = load(portraits, copies, 0.0)
    np.testing.assert_array_equal(none["frames"], none["driving"])


def test_a_crop_moves_frames_and_driver_alike(portraits, copies):
    batch = load(portraits, copies, 1.0, crop_jitter=0.2)
    frames, driving = batch["frames"].astype(int), batch["driving"].astype(int)
    assert (np.minimum(np.abs(frames - 255 + driving), np.abs(frames - driving)).mean((1, 2, 3, 4)) < 12).all()


def test_without_copies_nothing_is_added_and_the_stream_stays(portraits):
    data = {"kind": "faces", "path": str(portraits), "size": SIZE}
    with make_loader(data, global_batch=2, frames=FRAMES, threads=0) as loader:
        assert "driving" not in next(loader)
        assert loader.get_state()["stream"]["data.stylised"] is False


def test_each_copy_of_a_clip_is_drawn(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a.mp4", "a/b.mp4", "a/c.mp4", "d.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in copies_of(str(tmp_path), "a")] == ["a.mp4", "b.mp4", "c.mp4"]
    rng = np.random.default_rng(0)
    drawn = {draw_copy(str(tmp_path), 0.5, "a", rng) for _ in range(40)}
    assert {path.name for path in drawn if path} == {"a.mp4", "b.mp4", "c.mp4"} and None in drawn
    assert draw_copy(str(tmp_path), 1.0, "nobody", rng) is None


def test_what_does_not_fit_is_named(portraits, copies, source, tmp_path):
    with pytest.raises(InputFileError, match="no folder with copies of clips; put them there as CLIP_ID.mp4"):
        load(portraits, tmp_path, 1.0)
    with pytest.raises(ConfigError, match="stylised_share 2.0 is a share of the examples"):
        load(portraits, copies, 2.0)
    with pytest.raises(ConfigError, match="what belongs to stored clips; give their data.path"):
        load("", copies, 1.0)
    for number in range(len(source)):
        view = source.view(source[number], np.random.default_rng(0))
        with VideoWriter(tmp_path / f"{view.clip_id}.mp4", 25) as writer:
            writer.write(np.zeros((SIZE, SIZE, 3), np.uint8))
    with pytest.raises(InputFileError, match="has 1 frames, the clip that it copies 14; make the copy anew"):
        load(portraits, tmp_path, 1.0)
