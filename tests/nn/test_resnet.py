"""Changes of resolution."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.nn.resnet import Downsample, nearest


@given(old=st.integers(1, 7), new=st.integers(1, 15))
def test_nearest_takes_the_floor_of_the_scaled_index(old, new):
    x = jnp.arange(old, dtype=jnp.float32)[None, :, None]
    np.testing.assert_array_equal(nearest(x, new, axis=1)[0, :, 0], [i * old // new for i in range(new)])


def test_downsampling_halves_rounding_up():
    shape = jax.eval_shape(Downsample(3).init_with_output, jax.random.key(0), jnp.zeros((1, 7, 4, 2)))[0].shape
    assert shape == (1, 4, 2, 3)
