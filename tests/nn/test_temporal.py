"""The motion module equals the original's, starts as the identity and refuses windows that are too long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.nn.embeddings import position_table
from portrait_jax.nn.temporal import TemporalConfig, TemporalTransformer
from tests.golden import assert_close, channels_last, flax_params, golden_config, golden_tensors, random_params


def golden_module():
    config = golden_config("follow_your_emoji")["motion_module"]["config"]
    data = golden_tensors("follow_your_emoji", "motion_module")
    weights = {k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")}
    module = TemporalTransformer(
        TemporalConfig(config["num_attention_heads"], config["temporal_position_encoding_max_len"])
    )
    return module, weights, data


def test_motion_module_matches_golden():
    module, weights, data = golden_module()
    out = jax.jit(module.apply)(flax_params(weights), channels_last(data["inputs.hidden_states"]))
    assert_close(out, channels_last(data["outputs.hidden_states"]))


def test_position_table_is_the_golden_buffer():
    _, weights, _ = golden_module()
    stored = weights["temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"][0]
    np.testing.assert_allclose(position_table(*stored.shape), stored, atol=1e-5)


def test_new_module_is_the_identity_and_learns():
    module = TemporalTransformer(TemporalConfig(num_heads=2, norm_groups=4))
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 8))
    params = jax.jit(module.init)(jax.random.key(1, impl="rbg"), x)
    np.testing.assert_array_equal(jax.jit(module.apply)(params, x), x)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(module.apply(p, x))))(params)
    assert np.any(np.asarray(grads["params"]["temporal_transformer"]["proj_out"]["kernel"]))


def test_pixels_do_not_mix_and_frames_do():
    module, weights, data = golden_module()
    params = flax_params(weights)
    attend = jax.jit(lambda x: module.apply(params, x) - x)
    x = np.asarray(channels_last(data["inputs.hidden_states"]))[:1]
    changed = x.copy()
    # Moving one pixel within its own group statistics would touch the others: permute two pixels in every frame instead.
    changed[:, :, 0, 0], changed[:, :, 2, 3] = x[:, :, 2, 3], x[:, :, 0, 0]
    before, after = np.asarray(attend(x)), np.asarray(attend(changed))
    np.testing.assert_allclose(after[:, :, 0, 0], before[:, :, 2, 3], atol=1e-5)
    np.testing.assert_allclose(after[:, :, 1, 1], before[:, :, 1, 1], atol=1e-5)
    reversed_time = np.asarray(attend(x[:, ::-1]))[:, ::-1]
    assert np.abs(reversed_time - before).max() > 1e-2


def test_joint_norm_sees_all_frames_and_is_the_frames_own_for_a_single_one():
    own, joint = (TemporalTransformer(TemporalConfig(2, norm_groups=4, joint_norm=flag)) for flag in (False, True))
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 8)) * jnp.array([1.0, 3.0, 9.0])[:, None, None, None]
    params = random_params(own, x)
    run = [jax.jit(module.apply) for module in (own, joint)]
    np.testing.assert_allclose(run[0](params, x[:, :1]), run[1](params, x[:, :1]), atol=1e-5)
    assert np.abs(run[0](params, x) - run[1](params, x)).max() > 1e-2


def test_too_many_frames_is_a_shape_error():
    module = TemporalTransformer(TemporalConfig(num_heads=2, max_length=2, norm_groups=4))
    with pytest.raises(ShapeError, match="3 frames exceeds the position table of 2"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 3, 2, 2, 8)))
