"""Hallo3 at a tiny size: what clips are told, that they go on from each other, which networks a loss reaches."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hallo3
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.continued import clip_features
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems import hallo3_loss
from portrait_jax.systems.hallo3 import Hallo3
from portrait_jax.systems.hallo3_networks import LossConfig
from tests.systems.hallo3.small import FRAMES, HEIGHT, WIDTH, batch, make_system, portrait, windows
from tests.systems.hallo3.small import get_config as small_config
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
    for one, other in zip(cond.memory, uncond.memory, strict=True):
        np.testing.assert_array_equal(one, other)
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


def told_in_training(monkeypatch, name="stage2", **loss):
    """What the denoiser is told of a batch with these settings of the loss, all others off."""
    off = {"text_drop": 0.0, "audio_drop": 0.0, "reference_drop": 0.0, "known_drop": 0.0, "noise": None}
    config = small_config(name)
    with config.unlocked():
        config.loss.update({**off, **loss, "mouth": 0.0})
    made, seen = Hallo3.from_config(config), {}

    def squared(system, params, latents, noise, timestep, told):
        seen["told"] = told
        return jnp.zeros_like(latents)

    monkeypatch.setattr(hallo3_loss, "squared_errors", squared)
    given = batch(made)
    run = jax.jit(lambda params: (made.loss(params, given, jax.random.key(5), ""), seen["told"])[1])
    return jax.device_get(run(make_params(made)))


DROPS = {
    "text_drop": lambda told: told.text,
    "audio_drop": lambda told: told.audio,
    "reference_drop": lambda told: told.memory,
    "known_drop": lambda told: told.known,
}


@pytest.mark.slow
@pytest.mark.parametrize("drop", DROPS)
def test_each_drop_takes_away_what_it_names_and_nothing_else(drop, monkeypatch):
    whole, without = told_in_training(monkeypatch), told_in_training(monkeypatch, **{drop: 1.0})
    for name, read in DROPS.items():
        same = all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (read(whole), read(without)))))
        # The reference transformer is told the prompt in training.
        assert same == (name != drop and (drop, name) != ("text_drop", "reference_drop"))
    if drop in ("text_drop", "known_drop"):
        assert not np.any(DROPS[drop](without))


@pytest.mark.slow
def test_motion_frames_are_noised_in_training_unless_it_is_by_the_paper(monkeypatch):
    plain, noised = told_in_training(monkeypatch), told_in_training(monkeypatch, noise=(0.0, 0.1))
    again = told_in_training(monkeypatch, noise=(-30.0, 0.1))
    assert np.abs(noised.known - plain.known).max() > 10 * np.abs(again.known - plain.known).max()
    assert hallo3.get_config("paper_stage1").loss.noise is None
    assert hallo3.get_config("stage1").loss.noise == (-3.0, 0.5)


def known_of(made, masked: float, image, motion):
    """Latents that a clip is told, and the pixels of what was encoded for them."""
    seen = []

    class Spy:
        def apply(self, params, video, method):
            seen.append(video)
            size = (len(video), made.autoencoder_config.latent_frames(video.shape[1]), *made.latent_shape())
            return jnp.zeros(size), jnp.zeros(size)

    spied = replace(made, motion=replace(made.motion, masked=masked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hallo3, "autoencoder", Spy())
        known = spied.known_latents({"autoencoder": {}}, image, motion, jax.random.key(0))
    return known, seen[0]


def test_a_share_of_the_motion_frames_pixels_is_grey_the_same_in_all_and_the_portrait_is_whole():
    made = system()
    image = jnp.full((1, HEIGHT, WIDTH, 3), 0.5)
    motion = jnp.full((1, 2, HEIGHT, WIDTH, 3), 0.7)
    known, seen = known_of(made, 0.25, image, motion)
    assert known.shape[1] == made.latent_grid[0] and seen.shape[1] == 3
    grey = np.asarray(seen[0, 1:] == 0).all(-1)
    np.testing.assert_array_equal(grey[0], grey[1])
    assert 0.15 < grey.mean() < 0.35 and (seen[0, 0] == 0.5).all() and np.isclose(seen[0, 1:][~grey], 0.7).all()


def test_the_rest_of_a_clip_is_told_nothing_or_where_it_is_asked_for_the_portrait():
    image, motion = 0.5 * jnp.ones((1, HEIGHT, WIDTH, 3)), jnp.ones((1, 2, HEIGHT, WIDTH, 3))
    for after in ("zeros", "portrait"):
        made = make_system(motion={"frames": 2, "together": True, "masked": 0.0, "after": after})
        known = made.known_latents(params(), image, motion)
        assert known.shape == (1, *made.latent_grid, 4)
        still = made.to_latents(params(), image[:, None])[:, 0] * (after == "portrait")
        np.testing.assert_allclose(known[:, 1:], jnp.stack([still, still], axis=1), atol=1e-6)
    with pytest.raises(ConfigError, match="motion.after 'portraits' does not exist; did you mean 'portrait'"):
        make_system(motion={"frames": 2, "after": "portraits"})


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_noisier_timesteps_are_drawn_more_often_by_a_power(power):
    drawn = np.asarray(hallo3_loss.timesteps(jax.random.key(0), 20_000, 1000, power))
    assert drawn.min() >= 0 and drawn.max() == 999
    assert np.mean(drawn < 500) == pytest.approx(0.5**power, abs=0.01)
    with pytest.raises(ConfigError, match="timestep_power must be positive"):
        LossConfig(timestep_power=0.0)


def test_motion_frames_by_the_paper_are_latent_frames_of_their_own():
    made = make_system(motion={"frames": 2, "together": False, "masked": 0.0})
    image, motion = jnp.zeros((1, HEIGHT, WIDTH, 3)), jnp.ones((1, 2, HEIGHT, WIDTH, 3))
    _, seen = known_of(made, 0.0, image, motion)
    assert seen.shape == (2, 1, HEIGHT, WIDTH, 3) and (seen == 1).all()


def test_the_reference_transformer_sees_the_face_or_by_the_paper_the_portrait_and_the_prompt(monkeypatch):
    image, mask = portrait(), jnp.zeros((1, HEIGHT, WIDTH)).at[:, 4:12, 6:18].set(1)
    seen = {}

    def memory(self, params, masked, text):
        seen.update(masked=masked, text=text)
        return jnp.zeros(1), jnp.zeros(1)

    monkeypatch.setattr(Hallo3, "person_memory", memory)
    monkeypatch.setattr(Hallo3, "to_latents", lambda self, params, video, *_, **__: video)
    text = jnp.ones((1, 3, 12))
    for kind, outside in (("face", -1.0), ("portrait", None)):
        made = make_system(memory_of=kind)
        made.encode_portrait(params(), image, {"face_mask": mask, "text": text})
        whole = made.picture(image)
        shown = whole if outside is None else jnp.where(mask[..., None] == 1, whole, outside)
        np.testing.assert_allclose(seen["masked"][:, 0], shown, atol=1e-6)
        assert bool(np.any(seen["text"])) == (kind == "portrait")
    with pytest.raises(ConfigError, match="memory_of 'faces' does not exist; did you mean 'face'"):
        make_system(memory_of="faces")


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
