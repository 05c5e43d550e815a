"""The motion module mixes frames and not pixels, starts as the identity and refuses windows that are too long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.nn.temporal import TemporalConfig, TemporalTransformer
from tests.weights import random_params


def test_new_module_is_the_identity_and_learns():
    module = TemporalTransformer(TemporalConfig(num_heads=2, norm_groups=4))
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 8))
    params = jax.jit(module.init)(jax.random.key(1, impl="rbg"), x)
    np.testing.assert_array_equal(jax.jit(module.apply)(params, x), x)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(module.apply(p, x))))(params)
    assert np.any(np.asarray(grads["params"]["temporal_transformer"]["proj_out"]["kernel"]))


def test_pixels_do_not_mix_and_frames_do():
    module = TemporalTransformer(TemporalConfig(num_heads=2, norm_groups=4))
    x = np.array(jax.random.normal(jax.random.key(0), (1, 5, 3, 4, 8)))
    params = random_params(module, x)
    attend = jax.jit(lambda x: module.apply(params, x) - x)
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
