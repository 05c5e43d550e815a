"""Protects several portraits that one driver animates together: each has the video that it has alone."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files, animate_together
from portrait_jax.animation.landmarks import drawn
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.media.image import read_image, write_image
from portrait_jax.media.video import read_video
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny
from tests.animation import scene

FRAMES = 7
PICTURES = np.random.default_rng(0).integers(0, 256, (60, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
SIGNALS = [drawn(lambda frames: PICTURES[frames]), drawn(lambda frames: PICTURES[20 + frames])]


def make(params=None, mesh=None, **sampling) -> Animator:
    config = tiny.get_config()
    config.sampling.update({"windows_per_chunk": 1, **sampling})
    system = FollowYourEmoji.from_config(config)
    return Animator(system, tiny.make_params(system) if params is None else params, mesh=mesh)


@pytest.fixture(scope="module")
def animator() -> Animator:
    return make()


def together(animator, **options):
    return list(animator.videos([*PICTURES[-2:]], SIGNALS, FRAMES, seed=3, **options))


def joined(chunks) -> np.ndarray:
    return np.concatenate([videos for videos, _ in chunks], axis=1).astype(int)


def assert_each_is_as_alone(found, animator):
    for video, portrait, signals in zip(joined(found), PICTURES[-2:], SIGNALS, strict=True):
        alone = [frames for frames, _ in animator.frames(portrait, signals, FRAMES, seed=3)]
        assert np.abs(video - np.concatenate(alone)).max() <= 1


def test_each_portrait_has_the_frames_that_it_has_alone_also_after_an_interruption(animator):
    found = together(animator)
    assert_each_is_as_alone(found, animator)
    assert np.abs(joined(found)[0] - joined(found)[1]).mean() > 1
    rest = together(animator, start=found[0][1])
    np.testing.assert_array_equal(joined(rest), joined(found[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [{"strategy": "prefix"}, {"strategy": "wrapped", "windows_per_batch": 2}], ids=str)
def test_so_it_is_by_other_strategies_and_over_a_mesh(animator, sampling):
    """Two portraits and two branches on four devices."""
    alone = make(animator.params, solver="ddim", **sampling)
    params = jax.device_get(animator.params)
    shared = make(params, make_mesh(data=4), solver="ddim", **sampling)
    found = together(shared)
    assert_each_is_as_alone(found, alone)
    assert_each_is_as_alone([(videos, None) for videos, _ in [*found[:1], *together(shared, start=found[0][1])]], alone)


@pytest.fixture
def jobs(tmp_path):
    scene.fill(tmp_path)
    write_image(tmp_path / "second.png", read_image(tmp_path / "portrait.png")[:, ::-1].copy())
    first = scene.job(tmp_path, "out/portrait.mp4")
    return [first, replace(first, portrait=tmp_path / "second.png", output=tmp_path / "out" / "second.mp4")]


def test_a_video_a_sheet_and_a_record_for_each_after_a_killed_run_that_went_on(animator, jobs, tmp_path, monkeypatch):
    videos = Animator.videos

    def killed(self, *given, **options):
        yield next(videos(self, *given, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(Animator, "videos", killed)
    with pytest.raises(KeyboardInterrupt):
        animate_together(animator, jobs)
    monkeypatch.undo()
    with pytest.raises(InputFileError, match="second.seed"):
        animate_together(animator, [replace(job, resume=True, seed=1) for job in jobs])
    records = animate_together(animator, [replace(job, resume=True) for job in jobs])
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == [f"{name}.{kind}" for name in ("portrait", "second") for kind in ("json", "mp4", "png")]
    assert [json.loads(job.record.read_text()) for job in jobs] == records
    assert records[1]["inputs"]["portrait"]["path"].endswith("second.png")
    assert records[0]["together"] == ["portrait", "second"]
    for job in jobs:
        single = replace(job, output=tmp_path / "alone.mp4")
        assert "together" not in animate_files(animator, single)
        assert np.abs(read_video(job.output).astype(int) - read_video(single.output)).mean() < 0.5


def test_portraits_that_would_be_written_to_one_file_are_named(animator, jobs, tmp_path):
    with pytest.raises(ConfigError, match="two portraits would be written to portrait.mp4"):
        animate_together(animator, [jobs[0], replace(jobs[1], output=jobs[0].output)])
    with pytest.raises(InputFileError, match="second.png, which is to be written, is an input"):
        animate_together(animator, [replace(job, output=tmp_path / job.output.name) for job in jobs[::-1]])
    assert not (tmp_path / "out").exists()
