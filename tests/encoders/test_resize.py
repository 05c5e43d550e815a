"""Bicubic resizing equals Pillow's in every value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from portrait_jax.encoders.resize import bicubic_u8


@pytest.mark.parametrize(("old", "new"), [((32, 32), (56, 56)), ((40, 30), (16, 16)), ((16, 20), (16, 33))])
def test_every_value_equals_pillows(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling.BICUBIC))
    resized = jax.jit(bicubic_u8, static_argnums=(1, 2))(jnp.asarray(image)[None], *new)
    np.testing.assert_array_equal(resized[0], expected)
