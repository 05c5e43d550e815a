"""Protects: a preparation's notes: what stands, what was skipped and why, and who killed the process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from data import parts, records
from data.parts import Skipped, Source
from portrait_jax.errors import ConfigError, InputFileError, VideoError


def test_a_part_file_gives_the_same_record(record, tmp_path):
    parts.save_part(tmp_path / "a.npz", record)
    assert records.digest(parts.load_part(tmp_path / "a.npz")) == records.digest(record)


def test_a_truncated_part_file_is_named(record, tmp_path):
    parts.save_part(tmp_path / "a.npz", record)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    with pytest.raises(InputFileError, match="a.npz is damaged"):
        parts.load_part(tmp_path / "a.npz")


def source(name: str) -> Source:
    return Source(name, f"{name}.mp4", "train", None)


def make(source: Source):
    """Two clips with a bad stretch between them; some names end otherwise."""
    record = blank()
    yield {**record, "clip_id": f"{source.source_id}_0"}
    if source.source_id == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    if source.source_id == "broken":
        raise VideoError("broken.mp4 is broken")
    yield Skipped("NoFaceError", f"no face in {source.name}", 1.0, 2.5)
    yield {**record, "clip_id": f"{source.source_id}_1"}


def blank():
    """A record of nothing."""
    shapes = {"landmarks": (2, 478, 3), "face_box": (2, 4), "pose": (2, 6)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    pictures = {"frames": np.zeros((2, 32, 32, 3), np.uint8), "face_mask": np.zeros((2, 32, 32), bool)}
    return records.encode_clip({**arrays, **pictures, "fps": 25.0})


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_bad_stretch_is_reported_and_the_clips_about_it_stay(tmp_path):
    good = source("good")
    parts.prepare_sources(tmp_path, [good], make)
    assert [path.stem for path in parts.collect(tmp_path, [good])["train"]] == ["good_0", "good_1"]
    stretch = {
        "source": "good.mp4",
        "error": "NoFaceError",
        "reason": "no face in good.mp4",
        "from_s": 1.0,
        "to_s": 2.5,
    }
    assert report(tmp_path) == {"sources": 1, "clips": 2, "skipped": [stretch]}


def test_a_source_that_raises_leaves_no_clip_and_its_reason(tmp_path):
    sources = [source("broken"), source("good")]
    parts.prepare_sources(tmp_path, sources, make)
    assert [path.stem for path in parts.collect(tmp_path, sources)["train"]] == ["good_0", "good_1"]
    assert len(list(tmp_path.glob("parts/train/*"))) == 2
    found = report(tmp_path)["skipped"][0]
    assert found == {"source": "broken.mp4", "error": "VideoError", "reason": "broken.mp4 is broken"}


def test_a_source_that_killed_its_process_before_is_tried_apart_and_named_and_the_rest_is_prepared(tmp_path):
    sources = [source("fatal"), source("good")]
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "fatal.started").touch()
    parts.prepare_sources(tmp_path, sources, make)
    (found,) = [item for item in report(tmp_path)["skipped"] if item["source"] == "fatal.mp4"]
    assert found["error"] == "ProcessDied" and "re-encode" in found["reason"]
    assert [path.stem for path in parts.collect(tmp_path, sources)["train"]] == ["good_0", "good_1"]
    assert not list(tmp_path.glob("sources/*.started"))


def test_a_bug_ends_the_run_and_leaves_no_suspicion(tmp_path):
    def buggy(source):
        raise TypeError("a bug")
        yield

    with pytest.raises(TypeError, match="a bug"):
        parts.prepare_sources(tmp_path, [source("good")], buggy)
    assert not list(tmp_path.glob("sources/*"))


def test_a_folder_belongs_to_one_preparation(tmp_path):
    parts.claim(tmp_path / "set", {"size": 64, "places": (1, 2)})
    parts.claim(tmp_path / "set", {"size": 64, "places": (1, 2)})
    with pytest.raises(ConfigError, match=r"other settings \(size\)"):
        parts.claim(tmp_path / "set", {"size": 32, "places": (1, 2)})
