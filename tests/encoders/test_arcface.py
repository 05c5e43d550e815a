"""The face recogniser: published sizes and names, unit length, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import ArcFace, ArcFaceConfig
from portrait_jax.errors import ShapeError
from tests.golden import manifest, random_params, torch_shapes

TINY = ArcFaceConfig(layers=(1, 2), channels=(4, 8), embedding=6, image_size=8)


@pytest.mark.parametrize(
    ("layout", "layers"), [("arcface_iresnet50", (3, 4, 14, 3)), ("arcface_iresnet100", (3, 13, 30, 3))]
)
def test_full_size_has_the_published_names_and_shapes(layout, layers):
    module = ArcFace(ArcFaceConfig(layers))
    made = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 112, 112, 3)))
    published = manifest("bases_manifest.json")[layout]["params"]
    counters = "num_batches_tracked"
    assert torch_shapes(made) == {
        name: tuple(spec[0]) for name, spec in published.items() if not name.endswith(counters)
    }


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
