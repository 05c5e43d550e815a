"""HunyuanPortrait at a tiny size: what the guidance branches hold, what drives the result, and what a loss reaches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.animation.aligned import clip_signals
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError
from portrait_jax.face.crops import face_box
from portrait_jax.face.five_points import five_points
from portrait_jax.face.intensity import IntensityConfig
from portrait_jax.face.squares import driving_crops, driving_levels
from portrait_jax.systems.hunyuan_loss import driver_of_batch
from portrait_jax.systems.hunyuan_portrait import HunyuanPortrait
from portrait_jax.training.aligned import recognised_faces
from tests.animation import scene
from tests.tiny import make_params
from tests.tiny_hunyuan import ALIGNED, FACE, SIZE, make_batch, make_driving, make_system, picture


@functools.cache
def system() -> HunyuanPortrait:
    return make_system()


@functools.cache
def params():
    return make_params(system())


@pytest.fixture(scope="module")
def branches():
    @jax.jit
    def encode(params, image, aligned, driving):
        return system().encode_driving(params, system().encode_portrait(params, image, aligned), driving)

    return encode(params(), picture(1, SIZE, SIZE), picture(1, ALIGNED, ALIGNED, seed=9), make_driving())


def test_branches_add_the_portrait_then_the_motion_and_share_the_rest(branches):
    cond, appearance, uncond = (branches[name] for name in ("cond", "appearance", "uncond"))
    for field in ("image_tokens", "portrait"):
        assert np.any(getattr(cond, field)) and not np.any(getattr(uncond, field))
        np.testing.assert_array_equal(getattr(appearance, field), getattr(cond, field))
    assert np.any(cond.motion) and not np.any(appearance.motion) and not np.any(uncond.motion)
    for field in ("spatial", "ids", "start"):
        np.testing.assert_array_equal(getattr(uncond, field), getattr(cond, field))
    np.testing.assert_allclose(cond.start, 0.18215 * cond.portrait, rtol=1e-5)
    assert cond.ids.tolist() == [[12.5, 0, 0]]


def test_motion_has_angles_last_and_fades_where_it_is_told_to(branches):
    motion = branches["cond"].motion
    assert motion.shape == (1, 2, 4, 16)
    angles = motion[..., -6:]
    assert not angles[..., 3:].any() and (np.abs(angles[..., :3]) < 180).all()
    np.testing.assert_allclose(angles, jnp.broadcast_to(angles[:, :, :1], angles.shape))
    half = jnp.array([[0.0, 0.5]])
    faded = jax.jit(system().encode_driving)(
        params(), branches["appearance"], {**make_driving(), "strength": half}
    )["cond"].motion  # fmt: skip
    np.testing.assert_allclose(faded, motion * half[:, :, None, None], atol=1e-5)


def test_who_it_is_depends_on_the_recognised_face():
    tokens = jax.jit(lambda *args: system().encode_portrait(*args).image_tokens)
    image = picture(1, SIZE, SIZE)
    one, other = (tokens(params(), image, picture(1, ALIGNED, ALIGNED, seed=seed)) for seed in (9, 10))
    nobody = jax.jit(lambda p, i: system().encode_portrait(p, i).image_tokens)(params(), image)
    assert np.abs(one - other).max() > 1e-5 and np.abs(one - nobody).max() > 1e-5


@pytest.mark.slow
def test_motion_attention_of_a_new_denoiser_is_a_copy_of_the_portraits():
    made = jax.jit(lambda key: system().init(key)["denoiser"]["mid_block"]["attentions_0"])(jax.random.key(0))
    for block in ("transformer_blocks_0", "temporal_transformer_blocks_0"):
        attention = made[block]["attn2"]
        for own, copy in (("to_k", "to_k_ip_0"), ("to_v", "to_v_ip_0")):
            np.testing.assert_array_equal(attention["processor"][copy]["kernel"], attention[own]["kernel"])


@pytest.mark.slow
def test_the_loss_reaches_what_the_paper_trains_and_drops_stop_it():
    batch = make_batch()
    assert set(batch) == set(system().batch_keys)

    def reached(**loss: float) -> set[str]:
        one = make_system(**loss)
        gradients = jax.jit(jax.grad(lambda p: one.loss(p, batch, jax.random.key(3), "")[0]))(params())
        return {name for name, tree in gradients.items() if any(np.any(leaf) for leaf in jax.tree.leaves(tree))}

    trained = {"denoiser", "image_encoder", "image_projection", "motion_memory", "guider"}
    assert reached(drop_all=0.0, drop_motion=0.0) >= trained
    assert not reached(drop_all=0.0, drop_motion=1.0) & {"motion_memory", "expression"}
    assert not reached(drop_all=1.0) & {"image_projection", "motion_memory"}


@pytest.mark.slow
def test_a_batch_says_what_a_driving_video_of_its_frames_says():
    """Of the same frames; the motion of stylised ones is read from `driving`, the identity from what is to be drawn."""
    clip = scene.make_clip(2)
    batch = {name: jnp.asarray(clip[name])[None] for name in ("frames", "landmarks")}
    made = driver_of_batch(system(), batch)
    points, box = five_points(clip["landmarks"]), face_box(clip["landmarks"][0])
    for i, frame in enumerate(clip["frames"]):
        for name, expected in driving_crops(frame, points[i], box, FACE).items():
            assert np.abs(np.asarray(made[name][0, i]) * 255 - expected).mean() < 10, name
    for name, expected in driving_levels(points, system().intensity).items():
        np.testing.assert_array_equal(made[name][0], expected)
    grey = {**batch, "frames": jnp.full_like(batch["frames"], 128), "driving": batch["frames"]}
    for name, expected in made.items():
        np.testing.assert_array_equal(driver_of_batch(system(), grey)[name], expected)
    assert np.ptp(np.asarray(recognised_faces(grey, jax.random.key(0), ALIGNED))) < 1e-3


def test_the_rule_of_intensities_reaches_sampling_and_training():
    clip = scene.make_clip()
    points, portrait = five_points(clip["landmarks"]), Portrait(clip["frames"][0], clip["landmarks"][0])
    batch = {name: jnp.asarray(clip[name])[None] for name in ("frames", "landmarks")}
    found = []
    for rule in ("released", "paper"):
        one = make_system(model={"intensity": {"rule": rule}})
        expected = driving_levels(points, IntensityConfig(rule, levels=16))
        shown = clip_signals(one, portrait, Clip(clip["landmarks"], clip["frames"]), "none").at(np.arange(2))
        trained = jax.jit(lambda batch, one=one: driver_of_batch(one, batch)["expression_level"])(batch)
        np.testing.assert_array_equal(shown["expression_level"], expected["expression_level"][:2])
        np.testing.assert_array_equal(trained[0], expected["expression_level"])
        found.append(expected["expression_level"][0])
    assert found[0] != found[1], "both rules say the same, so nothing was compared"
    with pytest.raises(ConfigError, match="17 are more than the 16 of motion_memory.levels"):
        make_system(model={"intensity": {"levels": 17}})


def test_missing_signals_are_named():
    with pytest.raises(ConfigError, match="driven by face crops and their intensities, and 'heads' is missing"):
        system().encode_driving({}, Conditioning(), {"faces": picture(1, 2, 4, 4)})
