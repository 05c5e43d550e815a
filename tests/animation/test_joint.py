"""Protects: jointly denoised windows give every frame once and in order, and go on where they were interrupted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.animation import Animator, joint
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.landmarks import drawn
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.tiles import wrapped_tiles
from portrait_jax.media.video import probe, read_video
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny
from tests.animation import scene

FRAMES = 10
"""Wrapped: windows 0–3, 4–7, and 8, 9, 0, 1."""


def make(strategy: str, like: Animator | None = None) -> Animator:
    """An animator that shares the programs of another one: they do not depend on where windows lie."""
    config = tiny.get_config()
    config.sampling.update({"strategy": strategy, "solver": "ddim"})
    system = FollowYourEmoji.from_config(config)
    compiled = like._compiled if like else {}
    animator = Animator(system, tiny.make_params(system) if like is None else like.params, _compiled=compiled)
    for program in ("_encode_portrait", "_decode") if like else ():
        vars(animator)[program] = getattr(like, program)
    return animator


@pytest.fixture(scope="module")
def wrapped() -> Animator:
    return make("wrapped")


@pytest.fixture(scope="module")
def tiled(wrapped) -> Animator:
    return make("tiled", wrapped)


@pytest.fixture(scope="module")
def shifted(wrapped) -> Animator:
    return make("shifted", wrapped)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)


def run(animator, pictures, count=FRAMES, **options):
    return list(animator.frames(pictures[-1], drawn(lambda indices: pictures[indices]), count, seed=3, **options))


def joined(chunks) -> np.ndarray:
    return np.concatenate([frames for frames, _ in chunks])


@pytest.fixture(scope="module")
def done(wrapped, tiled, shifted, pictures):
    animators = {"wrapped": wrapped, "tiled": tiled, "shifted": shifted}
    return {name: run(animator, pictures) for name, animator in animators.items()}


@pytest.mark.parametrize(("strategy", "sizes"), [("wrapped", [0, 4, 0, 6]), ("tiled", [0, 10]), ("shifted", [0, 10])])
def test_every_frame_comes_once_as_soon_as_all_before_it_are_done(done, strategy, sizes):
    assert [len(frames) for frames, _ in done[strategy]] == sizes
    video = joined(done[strategy])
    assert video.shape == (FRAMES, tiny.SIZE, tiny.SIZE, 3)
    assert (video[1:] != video[:-1]).any(axis=(1, 2, 3)).all(), "two frames are the same"


@pytest.mark.parametrize("strategy", ["wrapped", "tiled", "shifted"])
def test_going_on_after_any_step_gives_the_frames_of_an_uninterrupted_run(request, pictures, done, strategy):
    animator = request.getfixturevalue(strategy)
    for number, (_, position) in enumerate(done[strategy][:-1], 1):
        rest = run(animator, pictures, start=position)
        np.testing.assert_array_equal(joined(rest), joined(done[strategy][number:]))


def test_arrangements_differ_and_start_from_the_same_noise(wrapped, tiled, shifted, pictures, done):
    for one, other in (("wrapped", "tiled"), ("tiled", "shifted"), ("shifted", "wrapped")):
        assert (joined(done[one]) != joined(done[other])).any()
    short = [joined(run(animator, pictures, 4)) for animator in (wrapped, tiled, shifted)]
    for each in short[1:]:
        assert np.abs(short[0].astype(int) - each).max() <= 1, "a video of one window is the same in each"


def test_wrapped_windows_keep_as_much_in_memory_for_any_length(wrapped, pictures):
    sizes = {
        count: max(
            sum(np.size(leaf) for leaf in jax.tree.leaves(position.carry))
            for _, position in run(wrapped, pictures, count)
        )
        for count in (22, 54)
    }
    assert sizes[22] == sizes[54]


def test_every_group_starts_around_given_latents():
    solver, tiles = make_solver("ddim", make_schedule("scaled_linear"), 2), wrapped_tiles(5, 2)
    noise, around = jnp.ones((1, 5, 1, 1, 2)), jnp.full((1, 1, 1, 2), 4.0)
    first = []

    def predict(frames, x, step):
        if step == 0:
            first.extend(np.asarray(x).reshape(-1))
        return x

    start = 0, tiles.blank(solver, (1, 1, 1, 2)), around
    assert len(list(joint.sample_groups(predict, lambda frames: noise[:, frames], tiles, solver, *start))) == 4
    expected = solver.init(noise[:, :1], around[:, None])
    np.testing.assert_allclose(first, float(expected[0, 0, 0, 0, 0]), rtol=1e-6)


def test_an_unknown_strategy_is_named(pictures):
    with pytest.raises(ConfigError, match="'tilled' is not known; did you mean 'tiled'"):
        make("tilled").plan(4)


@pytest.mark.parametrize("strategy", ["wrapped", "tiled"])
def test_files_hold_all_frames_and_a_killed_run_goes_on(request, strategy, tmp_path, monkeypatch):
    animator = request.getfixturevalue(strategy)
    scene.fill(tmp_path)
    whole, cut = scene.job(tmp_path, "a/whole.mp4"), scene.job(tmp_path, "b/cut.mp4")
    animate_files(animator, whole)
    videos = Animator.videos
    monkeypatch.setattr(
        Animator, "videos", lambda self, *a, seed, start: _until(videos(self, *a, seed=seed, start=start))
    )
    with pytest.raises(KeyboardInterrupt):
        animate_files(animator, cut)
    monkeypatch.undo()
    assert (cut.parts / "position.npz").exists()
    animate_files(animator, scene.job(tmp_path, "b/cut.mp4", resume=True))
    assert probe(cut.output).frames == scene.FRAMES
    np.testing.assert_array_equal(read_video(cut.output), read_video(whole.output))


def _until(chunks):
    """Interrupts after the first solver step."""
    yield next(chunks)
    raise KeyboardInterrupt
