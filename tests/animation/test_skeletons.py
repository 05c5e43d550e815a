"""Protects: a body beside the driving face is laid on the portrait, drawn without the driver's eyes, and reaches the network."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from portrait_jax.animation import aligned, files
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.signals import Request
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.face.pose import PoseDetector
from portrait_jax.face.skeleton import aligned as laid
from portrait_jax.face.skeleton import draw_skeleton, from_face, without_eyes
from portrait_jax.face.skeleton_files import SkeletonSequence, save_skeletons
from tests import tiny
from tests.animation import scene
from tests.animation.test_aligned import animator, clip, folder, small_portrait  # noqa: F401  # fixtures
from tests.face.test_skeleton import POINTS

MOVING = np.stack([POINTS + 2 * i for i in range(scene.FRAMES)])


class Bodies(PoseDetector):
    """Stands for MediaPipe's pose: the driver moves, in the portrait nobody is seen."""

    asked = 0

    def __init__(self):
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def detect_video(self, frames):
        Bodies.asked += 1
        return MOVING[: len(list(frames))]

    def detect(self, image):
        return np.full((12, 2), np.nan, np.float32)


def request(animator, folder, clip, control):  # noqa: F811
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    return Request(
        folder / "driving.mp4", animator.system, animator.params, small_portrait(clip), cache, None, "absolute",
        scene.fake_detector(clip), lambda: folder / "face.task", control=control, pose=Bodies,
    )  # fmt: skip


def expected(animator, clip, frames):  # noqa: F811
    portrait, side = small_portrait(clip), animator.system.image_size
    points = without_eyes(laid(MOVING, from_face(portrait.landmarks))) * (side / portrait.image.shape[0])
    return np.stack([draw_skeleton(points[i], side, side) for i in frames])


@pytest.mark.parametrize("stored", [True, False])
def test_the_drivers_body_is_laid_on_the_portrait(animator, folder, clip, stored):  # noqa: F811
    save_skeletons(folder / "body.npz", SkeletonSequence(scene.NTSC, 128, 128, MOVING))
    chosen = request(animator, folder, clip, folder / ("body.npz" if stored else "driving.mp4"))
    Bodies.asked = 0
    drive = aligned.load(chosen)
    order = np.array([10, 0, 3])
    np.testing.assert_array_equal(drive.signals.at(order)["skeletons"], expected(animator, clip, order))
    assert expected(animator, clip, order)[1].any() and "skeleton" in drive.rows
    aligned.load(chosen)
    assert Bodies.asked == (0 if stored else 1), "what was found is kept for a run that goes on"


def test_a_first_frame_without_a_head_is_refused(animator, folder, clip):  # noqa: F811
    hidden = MOVING.copy()
    hidden[0, 0] = np.nan
    save_skeletons(folder / "body.npz", SkeletonSequence(25.0, 128, 128, hidden))
    with pytest.raises(InputFileError, match="body.npz: skeletons are laid .*; begin where head and shoulders"):
        aligned.load(request(animator, folder, clip, folder / "body.npz"))


def test_systems_that_read_no_control_say_so(folder):  # noqa: F811
    system = tiny.make_system()
    job = dataclasses.replace(scene.job(folder), control=folder / "driving.npz")
    with pytest.raises(ConfigError, match="--control means nothing to follow_your_emoji"):
        animate_files(files.Animator(system, {}), job)


@pytest.mark.slow
def test_a_body_changes_the_video_and_is_recorded(animator, folder):  # noqa: F811
    save_skeletons(folder / "body.npz", SkeletonSequence(scene.NTSC, 128, 128, MOVING))
    plain = scene.job(folder, driving="driving.mp4")
    with_body = dataclasses.replace(plain, control=folder / "body.npz", output=folder / "body.mp4")
    animate_files(animator, plain)
    record = animate_files(animator, with_body)
    assert json.loads(with_body.record.read_text())["inputs"]["control"]["path"].endswith("body.npz")
    assert "pose_landmarker" not in record["inputs"]
    assert plain.output.read_bytes() != with_body.output.read_bytes()
