"""Protects: real videos become clips whose landmarks lie on the picture; unusable ones are named, never a crash."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice, pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import prepare_video, records, synthetic
from data.builder import open_split
from data.pipeline import make_loader
from data.prepare_video import VideoConfig
from portrait_jax.errors import AudioError, ConfigError, InputFileError, MultipleFacesError, NoFaceError, VideoError
from portrait_jax.face.detector import Detection
from portrait_jax.face.measures import head_pose
from portrait_jax.media.video import VideoWriter, read_frames

SMALL = VideoConfig(size=64, min_frames=6, max_frames=10)


class FakeDetector:
    """Knows the videos that `film` makes by their names."""

    def __init__(self):
        self.seen = []

    def detect(self, image, source="", frame=None):
        self.seen.append(source)
        if "nobody" in source:
            raise NoFaceError(f"no face found in {source}, frame {frame}")
        if "couple" in source or ("guest" in source and frame == 12):
            raise MultipleFacesError(f"2 faces found in {source}, frame {frame}")
        if "odd" in source:
            raise ValueError("never seen before")
        return Detection(truth(frame).landmarks, np.zeros(52, np.float32), np.eye(4, dtype=np.float32))


@cache
def truth(index):
    identity, performance = synthetic.sample_identity(4), synthetic.sample_performance(4, 40)
    return synthetic.render(identity, performance.pose[index], performance.expression[index], 96)


def film(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=25, crf=12) as writer:
        for index in range(frames):
            writer.write(truth(index).image)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    for name, frames in (("a/talker", 27), ("nobody", 8), ("couple", 8), ("short", 4)):
        film(folder / f"{name}.mp4", frames)
    (folder / "broken.mp4").write_bytes((folder / "a/talker.mp4").read_bytes()[:4000])
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def fake(monkeypatch):
    detector = FakeDetector()
    monkeypatch.setattr(prepare_video, "detector", lambda: detector)
    return detector


def test_unusable_videos_are_skipped_and_named(videos, fake, tmp_path):
    statistics = prepare_video.prepare_video(SMALL, videos, tmp_path / "set")
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert {item["source"]: item["error"] for item in report["skipped"]} == {
        "nobody.mp4": "NoFaceError", "couple.mp4": "MultipleFacesError", "short.mp4": "VideoError",
        "broken.mp4": "VideoError",
    }  # fmt: skip
    assert all(item["source"] in item["reason"] for item in report["skipped"])
    assert report["clips"] == 3 and report["sources"] == 5
    # 27 frames in tens: 10, 10, and 7, which is long enough to stay.
    assert statistics["splits"]["train"]["clip_frames"] == {"min": 7, "max": 10, "mean": 9.0}
    assert statistics["expression_names"][25] == "jawOpen" and len(statistics["expression_names"]) == 52


def test_clips_are_cropped_with_everything_measured_on_them(videos, fake, tmp_path):
    prepare_video.prepare_video(SMALL, videos, tmp_path / "set")
    record = records.normalise(open_split(tmp_path / "set", "train")[1])
    assert record["source"] == "a/talker.mp4" and record["clip_id"].endswith("_0001")
    assert_measured(record, 10)
    np.testing.assert_allclose(record["pose"][:, :3], head_pose(record["landmarks"]), atol=1e-3)


def assert_measured(record, first):
    """The clip shows the frames from `first` on, with their landmarks and masks."""
    x0, y0, x1, y1 = record["face_box"].T
    assert min(x0.min(), y0.min()) >= 0 and max(x1.max(), y1.max()) <= 64
    mask = records.unpack_mask(record)
    frames = records.decode_frames(record["video"], range(int(record["num_frames"])))
    for frame in range(len(frames)):
        expected = truth(first + frame)
        there, here = expected.landmarks[:, :2], record["landmarks"][frame, :, :2]
        # The crop is a scale and a shift: found from the landmarks, it must carry the source picture onto the clip.
        scale = np.ptp(here[:, 0]) / np.ptp(there[:, 0])
        shift = here[0] - scale * there[0]
        np.testing.assert_allclose(here, scale * there + shift, atol=1e-3)
        matrix = np.column_stack([np.eye(2) * scale, shift + 0.5 * scale - 0.5])
        carried = cv2.warpAffine(expected.image, matrix, (64, 64))
        error = np.abs(frames[frame][mask[frame]].astype(int) - carried[mask[frame]])
        assert error.mean() < 10
        area = (x1 - x0)[frame] * (y1 - y0)[frame] / 64**2
        assert 0.5 * area < mask[frame].mean() < area


def prepare_one_video(folder, name, frames, output):
    """Clips in order and the report's entries, of one filmed video."""
    film(folder / f"{name}.mp4", frames)
    prepare_video.prepare_video(SMALL, folder, output)
    stored = open_split(output, "train")
    clips = [records.normalise(stored[i]) for i in range(len(stored))]
    return clips, json.loads((output / "report.json").read_text())["skipped"]


def test_one_frame_with_a_second_face_costs_that_moment_alone(fake, tmp_path):
    clips, skipped = prepare_one_video(tmp_path / "videos", "guest", 23, tmp_path / "set")
    assert [int(clip["num_frames"]) for clip in clips] == [10, 10]
    assert_measured(clips[0], 0)
    assert_measured(clips[1], 13)
    assert [(item["error"], item["from_s"], item["to_s"]) for item in skipped] == [
        ("VideoError", 0.4, 0.48), ("MultipleFacesError", 0.48, 0.52),
    ]  # fmt: skip
    assert "guest.mp4, from 0.48 s to 0.52 s: 2 faces found" in skipped[1]["reason"]


def test_a_file_that_is_damaged_further_on_gives_the_clips_before_the_damage(fake, tmp_path, monkeypatch):
    def damaged(path, fps=None):
        yield from islice(read_frames(path, fps), 17)
        raise VideoError(f"{path}: decoding failed at frame 17")

    monkeypatch.setattr(prepare_video, "read_frames", damaged)
    clips, (skipped,) = prepare_one_video(tmp_path / "videos", "talker", 20, tmp_path / "set")
    assert [int(clip["num_frames"]) for clip in clips] == [10, 7]
    assert skipped["error"] == "VideoError" and skipped["from_s"] == 0.68 and "to_s" not in skipped


def test_whatever_else_a_file_does_it_is_named_and_the_others_are_prepared(fake, tmp_path):
    film(tmp_path / "videos" / "odd.mp4", 8)
    clips, (skipped,) = prepare_one_video(tmp_path / "videos", "talker", 8, tmp_path / "set")
    assert len(clips) == 1
    assert skipped["source"] == "odd.mp4" and "ValueError: never seen before" in skipped["reason"]


@given(st.lists(st.integers(1, 50), max_size=9), st.lists(st.integers(0, 300), min_size=2, max_size=9, unique=True))
def test_sound_is_cut_in_step_whatever_its_blocks_and_the_stretches_between(blocks, places):
    whole = np.arange(sum(blocks), dtype=np.int16)
    sound = prepare_video.Sound("no.mp4")
    sound._blocks = iter(np.split(whole, np.cumsum(blocks)[:-1]) if blocks else [])
    for start, stop in pairwise(sorted(places)):
        np.testing.assert_array_equal(sound.cut(start, stop), whole[start:stop])


def test_sound_that_breaks_off_is_kept_as_far_as_it_goes(monkeypatch):
    def breaking(path, rate, channels):
        yield np.full((100, 1), 0.5, np.float32)
        raise AudioError("damaged")

    monkeypatch.setattr(prepare_video, "read_blocks", breaking)
    np.testing.assert_array_equal(prepare_video.Sound("a.mp4").cut(90, 200), np.full(10, 16384, np.int16))


def test_prepared_videos_load(videos, fake, tmp_path):
    prepare_video.prepare_video(SMALL, videos, tmp_path / "set")
    config = {"path": str(tmp_path / "set"), "size": 64, "frame_stride": (1, 2)}
    with make_loader(config, global_batch=2, frames=3) as loader:
        assert next(loader)["frames"].shape == (2, 3, 64, 64, 3)


def test_an_interrupted_run_detects_no_video_twice(videos, fake, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    save, saved = prepare_video.parts.save_part, []

    def stop(path, record):
        saved.append(path)
        if len(saved) == 2:
            raise Stop
        save(path, record)

    monkeypatch.setattr(prepare_video.parts, "save_part", stop)
    with pytest.raises(Stop):
        prepare_video.prepare_video(SMALL, videos, tmp_path / "set")
    monkeypatch.setattr(prepare_video.parts, "save_part", save)
    before, fake.seen = fake.seen, []
    statistics = prepare_video.prepare_video(SMALL, videos, tmp_path / "set")
    assert statistics["splits"]["train"]["clips"] == 3
    # Only the video that was in work is done again.
    assert set(before) & set(fake.seen) == {str(videos / "a/talker.mp4")}


def test_a_set_without_any_face_and_a_folder_without_videos_are_errors(tmp_path, fake):
    film(tmp_path / "videos" / "nobody.mp4", 8)
    with pytest.raises(ConfigError, match="report.json"):
        prepare_video.prepare_video(SMALL, tmp_path / "videos", tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match="no video in"):
        prepare_video.prepare_video(SMALL, tmp_path / "empty", tmp_path / "set2")
    with pytest.raises(InputFileError, match="not a folder"):
        prepare_video.prepare_video(SMALL, tmp_path / "absent", tmp_path / "set3")


def test_names_decide_the_split_and_stay_apart():
    config = VideoConfig(test_fraction=0.3)
    names = [prepare_video.identify(prepare_video.Path(f"{folder}/{i}.mp4")) for folder in "ab" for i in range(200)]
    assert len(set(names)) == 400
    assert 0.2 < np.mean([prepare_video.split_of(name, config) == "test" for name in names]) < 0.4
    assert all(prepare_video.split_of(name, VideoConfig()) == "train" for name in names)


def test_real_videos_with_the_real_detector(samples_dir, face_landmarker_path, tmp_path, monkeypatch):
    monkeypatch.setenv("PORTRAIT_FACE_LANDMARKER", str(face_landmarker_path))
    prepare_video.detector.cache_clear()
    frames = list(islice(read_frames(samples_dir / "driving" / "clip_d0.mp4"), 8))
    folder = tmp_path / "videos"
    for name, pictures in (
        ("one", frames),
        ("two", [np.hstack([frame, frame]) for frame in frames]),
        ("none", [np.full_like(frame, 90) for frame in frames]),
    ):
        with VideoWriter(folder / f"{name}.mp4", fps=25) as writer:
            for picture in pictures:
                writer.write(picture)
    prepare_video.prepare_video(SMALL, folder, tmp_path / "set")
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert {item["source"]: item["error"] for item in report["skipped"]} == {
        "two.mp4": "MultipleFacesError", "none.mp4": "NoFaceError",
    }  # fmt: skip
    record = open_split(tmp_path / "set", "train")[0]
    assert record["landmarks"].shape == (8, 478, 3) and record["landmarks"][..., :2].min() > 0
    assert record["landmarks"][..., :2].max() < 64 and np.ptp(record["landmarks"][0, :, 0]) > 15
