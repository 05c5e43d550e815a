"""HunyuanPortrait at a tiny size: what the guidance branches hold, what drives the result, and what a loss reaches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError
from portrait_jax.systems.hunyuan_portrait import HunyuanPortrait
from tests.tiny import make_params
from tests.tiny_hunyuan import ALIGNED, SIZE, make_batch, make_driving, make_system, picture


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


def test_motion_begins_with_nothing_and_fades_at_the_end(branches):
    motion = branches["cond"].motion
    assert motion.shape == (1, 1 + 2 + 1, 4, 16)
    assert not np.any(motion[:, 0])
    np.testing.assert_allclose(motion[:, -1], motion[:, -2], rtol=1e-6)
    angles = motion[0, 1:3, :, -6:]
    assert not angles[..., 3:].any() and (np.abs(angles[..., :3]) < 180).all()
    np.testing.assert_allclose(angles, jnp.broadcast_to(angles[:, :1], angles.shape))


def test_who_it_is_depends_on_the_recognised_face():
    tokens = jax.jit(lambda *args: system().encode_portrait(*args).image_tokens)
    image = picture(1, SIZE, SIZE)
    one, other = (tokens(params(), image, picture(1, ALIGNED, ALIGNED, seed=seed)) for seed in (9, 10))
    nobody = jax.jit(lambda p, i: system().encode_portrait(p, i).image_tokens)(params(), image)
    assert np.abs(one - other).max() > 1e-5 and np.abs(one - nobody).max() > 1e-5


@pytest.mark.slow
def test_a_video_is_sampled_on_the_ring_and_its_ends_are_cut_off(branches):
    one = system()

    @jax.jit
    def run(params, branches):
        return one.render(params, one.sample(params, branches, jax.random.key(0)))

    video = run(params(), branches)
    assert video.shape == (1, 2, SIZE, SIZE, 3) and np.isfinite(video).all()
    moved = {name: value.replace(motion=-value.motion) for name, value in branches.items()}
    assert np.abs(run(params(), moved) - video).max() > 1e-4


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
    assert set(batch) == set(HunyuanPortrait.batch_keys)

    def reached(**loss: float) -> set[str]:
        one = make_system(**loss)
        gradients = jax.jit(jax.grad(lambda p: one.loss(p, batch, jax.random.key(3), "")[0]))(params())
        return {name for name, tree in gradients.items() if any(np.any(leaf) for leaf in jax.tree.leaves(tree))}

    trained = {"denoiser", "image_encoder", "image_projection", "motion_memory", "guider"}
    assert reached(drop_all=0.0, drop_motion=0.0) >= trained
    assert not reached(drop_all=0.0, drop_motion=1.0) & {"motion_memory", "expression"}
    assert not reached(drop_all=1.0) & {"image_projection", "motion_memory"}


def test_missing_signals_are_named():
    with pytest.raises(ConfigError, match="driven by face crops and their intensities, and 'heads' is missing"):
        system().encode_driving({}, Conditioning(), {"faces": picture(1, 2, 4, 4)})
