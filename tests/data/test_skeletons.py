"""Protects: skeletons of stored clips lie on their frames, whatever augmentation does to these, and lack what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from data import skeletons
from data.builder import read_statistics
from data.pipeline import make_loader
from data.skeletons import SkeletonsConfig, write_skeletons
from data.views import RecordSource
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.face.skeleton import from_face
from portrait_jax.face.skeleton_files import SkeletonSequence, load_skeletons, save_skeletons

SIZE, FRAMES = 64, 3


class FaceJoints:
    """Stands for a pose model: it knows the joints of the clips in the order in which they are looked at."""

    def __init__(self, known) -> None:
        self.known = known

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def detect_video(self, frames):
        return self.known.pop(0)


def views(portraits, split):
    source = RecordSource(portraits, split, SIZE)
    return [source.view(source[i], np.random.default_rng(0)) for i in range(len(source))]


@pytest.fixture(scope="module")
def folder(portraits, tmp_path_factory):
    """Sequences of all clips but the first of the training split, found by `write_skeletons`."""
    output = tmp_path_factory.mktemp("skeletons")
    clips = [view for split in read_statistics(portraits)["splits"] for view in views(portraits, split)]
    known = FaceJoints(
        [np.stack([from_face(face) for face in clip.landmarks(range(clip.num_frames))]) for clip in clips]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skeletons, "PoseDetector", lambda path: known)
        made = write_skeletons(SkeletonsConfig(), portraits, output)
    assert made == len(clips) and not known.known
    (output / f"{views(portraits, 'train')[0].clip_id}.npz").unlink()
    return output


def load(portraits, folder, **settings):
    data = {"kind": "faces", "path": str(portraits), "size": SIZE, "skeletons": str(folder)}
    with make_loader({**data, **settings}, global_batch=5, frames=FRAMES, threads=0) as loader:
        return next(loader)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_drawings_lie_on_the_faces_and_are_black_where_nothing_is_known(portraits, folder, jitter):
    batch = load(portraits, folder, skeleton_drop=0.0, crop_jitter=jitter)
    shown = batch["skeletons"]
    assert shown.shape == batch["frames"].shape and shown.dtype == np.uint8
    black = ~shown.any(axis=(1, 2, 3, 4))
    assert black.sum() == 1, "of five clips one has no skeleton"
    for clip in np.flatnonzero(~black):
        for picture, face in zip(shown[clip], batch["landmarks"][clip]):
            nose = np.round(from_face(face)[0]).astype(int)
            around = picture[max(nose[1] - 2, 0) : nose[1] + 3, max(nose[0] - 2, 0) : nose[0] + 3]
            assert around.any(), "a limb begins at the nose"


def test_limbs_are_left_out_of_whole_clips(portraits, folder):
    assert not load(portraits, folder, skeleton_drop=1.0)["skeletons"].any()
    some, all_ = (load(portraits, folder, skeleton_drop=drop)["skeletons"].any(-1) for drop in (0.5, 0.0))
    assert 0 < some.sum() < all_.sum()


def test_without_a_folder_nothing_is_added_and_the_stream_stays(portraits):
    data = {"kind": "faces", "path": str(portraits), "size": SIZE}
    with make_loader(data, global_batch=2, frames=FRAMES, threads=0) as loader:
        assert "skeletons" not in next(loader)
        assert loader.get_state()["stream"]["data.skeletons"] is False


def test_what_does_not_fit_is_named(portraits, folder, tmp_path):
    with pytest.raises(InputFileError, match="no folder with skeletons of clips"):
        load(portraits, tmp_path)
    with pytest.raises(ConfigError, match="data.skeletons names what belongs to stored clips"):
        load("", folder)
    with pytest.raises(ConfigError, match="skeleton_drop 2"):
        load(portraits, folder, skeleton_drop=2.0)
    for path in folder.rglob("*.npz"):
        found = load_skeletons(path)
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_skeletons(target, SkeletonSequence(*found[:3], found.points[1:]))
    with pytest.raises(InputFileError, match="make it anew"):
        load(portraits, tmp_path)
