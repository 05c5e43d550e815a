"""The spatial transformer hands over what its own self-attention reads, whatever it is given to look at."""

import jax
import numpy as np

from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.slots import Site
from portrait_jax.nn.transformer import SpatialTransformer
from tests.weights import random_params

FRAMES = 3


def draw(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape)


def test_captured_tokens_are_normalised_and_independent_of_the_reference():
    module = SpatialTransformer(2, Site("block", 0, 0, 8), groups=4)
    x, context, reference = draw(2 * FRAMES, 4, 5, 8), draw(2, 6, 10), draw(2, 7, 8)
    params = random_params(module, x, context, None, Conditioning(), FRAMES)

    @jax.jit
    def run(reference):
        return module.apply(params, x, context, reference, Conditioning(), FRAMES)

    (plain, without), (changed, given) = run(None), run(reference)
    np.testing.assert_array_equal(without, given)
    assert without.shape == (2 * FRAMES, 20, 8)
    assert np.abs(plain - changed).max() > 1e-3
    # Normalised over channels, then scaled and shifted by the block's own norm.
    norm = params["params"]["transformer_blocks_0"]["norm1"]
    unit = (np.asarray(given) - norm["bias"]) / norm["scale"]
    np.testing.assert_allclose(unit.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(unit.std(-1), 1, atol=1e-2)
