"""The face recogniser: unit length, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import ArcFace, ArcFaceConfig
from portrait_jax.errors import ShapeError
from tests.weights import random_params

TINY = ArcFaceConfig(layers=(1, 2), channels=(4, 8), embedding=6, image_size=8)


def test_embeddings_have_unit_length_and_keep_their_direction():
    face = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1, maxval=1)
    module = ArcFace(TINY)
    params = jax.tree.map(jnp.abs, random_params(module, face))
    raw = jax.jit(lambda p, x: module.apply(p, x, unit=False))(params, face)
    unit = jax.jit(module.apply)(params, face)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=-1, keepdims=True), atol=1e-5)
    assert unit.dtype == jnp.float32


def test_a_face_of_another_size_names_the_remedy():
    with pytest.raises(ShapeError, match="8×8 pixels, not .*align the face"):
        ArcFace(TINY).init(jax.random.key(0), jnp.zeros((1, 9, 9, 3)))
