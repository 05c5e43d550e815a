"""Noise with a part in common: how strongly frames hang together, and that each alone stays unit noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.noise import mixed_noise
from portrait_jax.errors import ConfigError


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_frames_correlate_by_the_share_and_keep_unit_variance(share):
    own = jax.random.normal(jax.random.key(0), (1, 3, 64, 64, 4))
    common = jax.random.normal(jax.random.key(1), (1, 1, 64, 64, 4))
    frames = np.asarray(mixed_noise(own, common, share)).reshape(3, -1)
    np.testing.assert_allclose(frames.std(axis=1), 1, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(frames)[np.triu_indices(3, 1)], share, atol=0.03)


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ConfigError, match="0..1"):
        mixed_noise(jnp.zeros((1, 1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1, 1)), 1.5)
