"""Protects: chunks, interruptions and lengths change how an animation is computed, never what is seen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from portrait_jax.animation import Animator, Position, animate_clip
from portrait_jax.animation.landmarks import control_drawing, drawn
from portrait_jax.animation.motion import make_alignment
from portrait_jax.animation.portrait import Portrait
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.face.alignment import Alignment, LandmarkSequence
from portrait_jax.face.drawing import draw_landmarks
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny
from tests.face.faces import canonical, make_face, placed, write_bundle

FRAMES = 11
"""Five windows of four frames that overlap by two; three chunks of two, the last one not full."""


class Counted(FollowYourEmoji):
    """Counts how often each method is traced."""

    traces = SimpleNamespace(denoise=0, encode_driving=0, encode_portrait=0, decode=0)

    def encode_portrait(self, *args):
        self.traces.encode_portrait += 1
        return super().encode_portrait(*args)

    def encode_driving(self, *args):
        self.traces.encode_driving += 1
        return super().encode_driving(*args)

    def denoise(self, *args):
        self.traces.denoise += 1
        return super().denoise(*args)

    def decode(self, *args):
        self.traces.decode += 1
        return super().decode(*args)


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = Counted.from_config(tiny.get_config())
    return Animator(system, tiny.make_params(system))


@pytest.fixture(scope="module")
def one_by_one(animator) -> Animator:
    """The same with one window per call."""
    return Animator(animator.system, animator.params, windows_per_chunk=1)


@pytest.fixture(scope="module")
def asked() -> SimpleNamespace:
    """A portrait, and control images that note which frames are asked for."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (200, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
    requests: list[np.ndarray] = []

    def drawing(indices):
        requests.append(indices)
        return pictures[indices]

    return SimpleNamespace(portrait=pictures[-1], signals=drawn(drawing), pictures=pictures, requests=requests)


@pytest.fixture(scope="module")
def whole(animator, asked):
    """Chunks of an uninterrupted run, and copies of the states made the moment they came."""
    chunks, states, copies = [], [], []
    for frames, progress in animator.frames(asked.portrait, asked.signals, FRAMES, seed=5):
        chunks.append(frames)
        states.append(progress)
        copies.append(jax.tree.map(np.array, progress.carry))
    return SimpleNamespace(chunks=chunks, states=states, copies=copies, frames=np.concatenate(chunks))


def video(animator, asked, count=FRAMES, seed=5, **options):
    return np.concatenate([f for f, _ in animator.frames(asked.portrait, asked.signals, count, seed=seed, **options)])


def test_every_frame_comes_once_in_chunks_that_are_done(whole):
    assert [len(chunk) for chunk in whole.chunks] == [4, 4, 3]
    assert whole.frames.shape == (FRAMES, tiny.SIZE, tiny.SIZE, 3) and whole.frames.dtype == np.uint8
    assert (whole.frames[1:] != whole.frames[:-1]).any(axis=(1, 2, 3)).all(), "two frames are the same"


def test_windows_per_chunk_do_not_change_the_frames(one_by_one, asked, whole):
    assert np.abs(video(one_by_one, asked).astype(int) - whole.frames).max() <= 1


@pytest.mark.parametrize("done", [1, 2, 3])
def test_resuming_gives_the_frames_of_an_uninterrupted_run(animator, asked, whole, done):
    rest = list(animator.frames(asked.portrait, asked.signals, FRAMES, seed=5, start=whole.states[done - 1]))
    assert len(rest) == len(whole.chunks) - done
    for (frames, _), expected in zip(rest, whole.chunks[done:], strict=True):
        np.testing.assert_array_equal(frames, expected)


def test_a_state_can_be_taken_up_with_another_number_of_windows_per_chunk(one_by_one, animator, asked, whole):
    after_three = [state for _, state in one_by_one.frames(asked.portrait, asked.signals, FRAMES, seed=5)][2]
    assert after_three.window == 3
    rest = video(animator, asked, start=after_three)
    assert np.abs(rest.astype(int) - whole.frames[6:]).max() <= 1


def test_states_stay_what_they_were_while_the_run_goes_on(whole):
    """The carry's memory is used again by the next chunk; a state that shares it would rot."""
    for state, copy in zip(whole.states, whole.copies, strict=True):
        jax.tree.map(np.testing.assert_array_equal, state.carry, copy)
    assert [state.window for state in whole.states] == [2, 4, 6]


def test_what_is_in_memory_does_not_grow_with_the_video(animator, asked, whole):
    asked.requests.clear()
    longer = [state for _, state in animator.frames(asked.portrait, asked.signals, 31, seed=5)]
    shapes = {str(jax.tree.map(np.shape, state.carry)) for state in [*longer, *whole.states]}
    assert len(longer) == 8 and len(shapes) == 1
    assert {len(indices) for indices in asked.requests} == {6}, "a chunk of two windows covers six frames"
    assert max(int(indices.max()) for indices in asked.requests) == 30


def test_later_driving_does_not_change_frames_that_are_done(animator, asked, whole):
    longer = video(animator, asked, 31)
    np.testing.assert_array_equal(longer[:8], whole.frames[:8])


def test_no_chunk_no_second_video_and_no_resumption_traces_anew(animator, asked, whole):
    before = dict(vars(animator.system.traces))
    video(animator, asked, 17, seed=1)
    video(animator, asked, start=whole.states[0])
    assert vars(animator.system.traces) == before


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_videos_shorter_than_a_window_have_their_length(one_by_one, asked, count):
    asked.requests.clear()
    frames = video(one_by_one, asked, count)
    assert frames.shape == (count, tiny.SIZE, tiny.SIZE, 3)
    assert asked.requests[-1].tolist() == [min(i, count - 1) for i in range(4)]


def test_the_seed_decides_the_noise(animator, asked, whole):
    np.testing.assert_array_equal(video(animator, asked), whole.frames)
    assert (video(animator, asked, seed=6) != whole.frames).any(axis=(1, 2, 3)).all()


def test_settings_are_those_of_the_system_unless_given():
    system = tiny.make_system()
    base = {"solver": "dpmpp_2m", "steps": 2, "guidance": 1.5, "window": 4, "overlap": 2, "windows_per_chunk": 2}
    base |= {
        "mimic": 0.0,
        "anchor": "latent",
        "anchor_strength": 1.0,
        "noise_share": 0.2,
        "strategy": "overlap",
        "framing": "face",
        "alignment": "proportional",
        "decode_chunk": 0,
        "decode_tile": 0,
        "decode_overlap": 0.25,
        "windows_per_batch": 1,
        "ends": 0,
        "portrait_guidance": None,
        "guidance_interval": [0.0, 1.0],
        "cache_every": 1,
        "cache_depth": 2,
        "shift": 3,
    }
    assert Animator(system, {}).settings == base
    changed = Animator(system, {}, steps=7, guidance=0.0, length=6, overlap=0, windows_per_chunk=1)
    assert changed.settings == {**base, "steps": 7, "guidance": 0.0, "window": 6, "overlap": 0, "windows_per_chunk": 1}
    assert changed.solver.steps == 7 and changed.plan(12).starts.tolist() == [0, 6]
    assert changed.rule.branches == ("uncond", "cond") and Animator(system, {}, guidance=1.0).rule.branches == ("cond",)


def test_pictures_of_another_size_are_an_error_with_both_sizes(animator, asked):
    with pytest.raises(ShapeError, match="portrait is 30×32, the system needs 32×32"):
        next(animator.frames(asked.portrait[:, :30], asked.signals, 3))
    with pytest.raises(ShapeError, match="control image is 32×30"):
        next(animator.frames(asked.portrait, drawn(lambda indices: asked.pictures[indices, :30]), 3))


def test_settings_that_cannot_work_are_named(animator, asked):
    def first(count=8, **settings):
        next(Animator(animator.system, animator.params, **settings).frames(asked.portrait, asked.signals, count))

    with pytest.raises(ConfigError, match="no frame"):
        first(count=0)
    with pytest.raises(ConfigError, match="windows_per_chunk must be at least 1"):
        first(windows_per_chunk=0)
    with pytest.raises(ConfigError, match="overlap < length"):
        first(length=4, overlap=4)
    with pytest.raises(ConfigError, match="steps"):
        first(steps=0)
    with pytest.raises(ShapeError, match="window of 9 frames exceeds the position table of 8"):
        first(count=20, length=9)


# Landmarks to frames


def faces(count: int) -> np.ndarray:
    """A driver whose face is twice as large as the picture's."""
    turn = np.linspace(-1, 1, count)
    return np.stack([placed(make_face(mouth=1 + t), yaw=20 * t, scale=3.0, at=(40, 40)) for t in turn])


def test_control_images_show_the_asked_frames_in_the_systems_style():
    system, points = tiny.make_system(), faces(6)
    images = control_drawing(points, system)(np.array([4, 0, 4]))
    for image, i in zip(images, (4, 0, 4), strict=True):
        np.testing.assert_array_equal(image, draw_landmarks(points[i], 32, 32, style=system.drawing_style))


def test_only_the_asked_frames_are_moved_onto_the_portraits_face():
    system, points, reference = tiny.make_system(), faces(9), placed(make_face(), scale=1.4, at=(16, 16))
    alignment = Alignment.of(points, reference)
    asked: list[int] = []

    def counted(driving):
        asked.append(len(driving))
        return alignment(driving)

    images = control_drawing(points, system, counted)(np.array([7, 2, 2]))
    assert asked == [3]
    for image, i in zip(images, (7, 2, 2), strict=True):
        np.testing.assert_array_equal(image, draw_landmarks(alignment(points)[i], 32, 32, style=system.drawing_style))


class Drawn(Animator):
    """Shows what would be animated."""

    def frames(self, portrait, signals, count, *, seed=0, start=None):
        yield signals.at(np.arange(count))["control"], Position(1, None)


@pytest.mark.parametrize("kind", ["metric", "proportional", "none"])
def test_a_clip_in_memory_is_aligned_as_the_config_says(tmp_path, kind):
    """As a file is (`animation.files`): by the size of the driver's frames and its expression."""
    system = tiny.make_system()
    system = replace(system, sampling=replace(system.sampling, alignment=kind))
    portrait = Portrait(np.zeros((32, 32, 3), np.uint8), placed(make_face(), scale=1.4, at=(16, 16)))
    bundle = lambda: write_bundle(tmp_path / "face.task", canonical())  # noqa: E731
    sequence = LandmarkSequence(25.0, 80, 64, faces(5), np.array([3, 2, 0, 1, 1], np.float32))
    align = make_alignment(kind, sequence, portrait, rotation="absolute", bundle=bundle)
    found = animate_clip(
        system, {}, portrait.image, portrait.landmarks, sequence.landmarks, animator=Drawn(system, {}),
        driving_size=(80, 64), expression=sequence.expression, bundle=bundle,
    )  # fmt: skip
    np.testing.assert_array_equal(found, control_drawing(sequence.landmarks, system, align)(np.arange(5)))
    assert found.any()


def test_a_clip_is_animated_by_landmarks_moved_onto_the_portraits_face(animator, asked):
    reference = placed(make_face(), scale=1.4, at=(16, 16))
    points = faces(5)
    moved = animate_clip(animator.system, animator.params, asked.portrait, reference, points, animator=animator)
    plain = animate_clip(
        animator.system, animator.params, asked.portrait, reference, points, align=False, animator=animator
    )
    assert moved.shape == plain.shape == (5, 32, 32, 3)
    assert (moved != plain).any(), "alignment has no effect"
    signals = drawn(control_drawing(points, animator.system))
    expected = [frames for frames, _ in animator.frames(asked.portrait, signals, 5)]
    np.testing.assert_array_equal(plain, np.concatenate(expected))
