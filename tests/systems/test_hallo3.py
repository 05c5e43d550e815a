"""Hallo3 at a tiny size: what clips are told, that they go on from each other, which networks a loss reaches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.continued import clip_features
from portrait_jax.sharding.mesh import make_mesh
from tests.systems.hallo3.small import FRAMES, HEIGHT, WIDTH, batch, make_system, portrait, windows
from tests.tiny import make_params


@functools.cache
def system():
    return make_system()


@functools.cache
def params():
    return make_params(system())


@functools.cache
def told():
    """Both guidance branches of a first clip, and the portrait."""

    @jax.jit
    def run(params, image, audio):
        made = system()
        mask = jnp.zeros((1, HEIGHT, WIDTH)).at[:, 4:12, 6:18].set(1)
        given = {"face_mask": mask, "face": batch(made)["face"], "text": jnp.array([[4, 7, 1]])}
        person = made.encode_portrait(params, image, given)
        pixels = image / 127.5 - 1
        motion = jnp.repeat(pixels[:, None], made.motion.frames, axis=1)
        known = made.known_latents(params, pixels, motion, jax.random.key(0))
        return made.encode_driving(params, person, {"audio": audio, "known": known})

    return run(params(), portrait(), windows(system()))


def test_branches_differ_in_prompt_and_sound_and_share_one_memory():
    cond, uncond = told()["cond"], told()["uncond"]
    made, given = system(), {"audio": windows(system()), "known": cond.known}
    shared = jax.eval_shape(lambda params: made.encode_driving(params, cond, given)["cond"].memory, params())
    assert shared[0].shape == cond.memory[0].shape == (2, 1, 2 * 3, 2, 16)
    assert np.any(cond.text) and not np.any(uncond.text)
    assert np.abs(cond.audio - uncond.audio).max() > 1e-4
    np.testing.assert_array_equal(cond.image_tokens, uncond.image_tokens)


def test_only_the_first_latent_frame_is_known():
    known = told()["cond"].known
    assert known.shape == (1, 3, 4, 6, 4) and np.any(known[:, 0]) and not np.any(known[:, 1:])


def test_clips_go_on_from_each_other_for_as_long_as_the_sound():
    made = system()
    clips = clip_features(windows(made, 2 * FRAMES), FRAMES, made.motion.frames)
    assert len(clips) == 3

    @jax.jit
    def run(params, image, clips):
        person = made.encode_portrait(params, image)
        return made.sample_clips(params, person, image, clips, jax.random.key(1))

    carry, video = run(params(), portrait(), clips)
    assert video.shape == (1, 3 * (FRAMES - 2), HEIGHT, WIDTH, 3) and np.isfinite(video).all()
    np.testing.assert_array_equal(carry, video[:, -2:])


def test_each_of_four_devices_decodes_a_strip_of_every_picture():
    """And hands its borders on: nothing is gathered."""
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 8, 12, 4)), jnp.float32)
    alone = jax.jit(system().decode).lower(params(), latents).compile()
    with jax.set_mesh(make_mesh(data=4)):
        shared = jax.jit(system().decode).lower(params(), latents).compile()
        found = jax.jit(system().decode)(params(), latents)
    np.testing.assert_allclose(found, alone(params(), latents), atol=2e-5)
    assert shared.cost_analysis()["flops"] < 0.3 * alone.cost_analysis()["flops"]
    assert "all-gather" not in shared.as_text() and "collective-permute" in shared.as_text()


@pytest.mark.parametrize("shape", [(5, 4, 6), (1, 8, 4), (4, 2, 2)])
def test_other_lengths_and_sizes_need_no_other_parameters(shape):
    made, cond = system(), told()["cond"]
    latents = jnp.zeros((1, *shape, 4))
    audio = jnp.zeros((1, shape[0], *cond.audio.shape[2:]))
    out = jax.eval_shape(made.denoise, params(), latents, jnp.zeros(1), cond.replace(known=latents, audio=audio))
    assert out.shape == latents.shape


def test_tokens_of_other_frames_are_refused():
    cond = told()["cond"]
    with pytest.raises(ShapeError, match="one set per frame"):
        jax.eval_shape(
            system().denoise, params(), cond.known[:, :2], jnp.zeros(1), cond.replace(known=cond.known[:, :2])
        )


def gradient(made, own):
    data = batch(made)

    @jax.jit
    def run(params):
        return jax.grad(lambda p: made.loss(p, data, jax.random.key(5), "")[0])(params)

    return {name: any(np.any(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in run(own).items()}


def test_the_loss_reaches_both_transformers_and_what_is_told():
    reached = gradient(system(), params())
    assert all(reached[name] for name in ("denoiser", "reference", "audio_projection", "face_projection"))
    # Whether what encodes sound and face trains is a stage's choice.
    assert reached["audio_encoder"] and reached["face_recogniser"] and not reached["autoencoder"]


def test_sizes_that_do_not_fit_are_named():
    for wrong, message in (
        ({"height": 18}, "height"),
        ({"motion": {"frames": 9}}, "cannot go on"),
        ({"frames": 13}, "one frame more than a multiple of 8"),
        ({"frames": 17}, r"sampling\.window is 9, but clips have 17 frames"),
        ({"audio_by": "ross"}, "cross"),
    ):
        with pytest.raises(ConfigError, match=message):
            assert make_system(**wrong).denoiser
    made = system()
    with pytest.raises(ConfigError, match="'known' is missing"):
        made.encode_driving(params(), told()["cond"], {"audio": windows(made)})
