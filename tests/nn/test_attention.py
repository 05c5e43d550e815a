"""All implementations of attention agree with the formula, with and without masks, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn import attention as module
from portrait_jax.nn.attention import Attention, attention, joined_mask
from tests.weights import random_params


def formula(q, k, v, mask=None):
    """Softmax attention in float64 numpy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bnhd,bkhd->bhnk", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnk,bkhd->bnhd", weights / weights.sum(-1, keepdims=True), v)


def arrays(items, queries, keys, heads=2, size=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((items, queries, heads, size), (items, keys, heads, size), (items, keys, heads, size))
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


@pytest.mark.parametrize("implementation", ["xla", "chunked", "pieces", "auto"])
@pytest.mark.parametrize("mask_rows", [None, 1, 75])
def test_implementations_equal_the_formula(implementation, mask_rows, monkeypatch):
    monkeypatch.setattr(module, "CACHE", 2 * 70 * 9)  # one item is cut into chunks of 70 queries
    q, k, v = arrays(4, 75, 9)
    mask = None
    if mask_rows:
        mask = np.random.default_rng(1).random((4, mask_rows, 9)) < 0.5
        mask[..., 0] = True
        mask = jnp.asarray(mask)
    out = attention(q, k, v, mask=mask, implementation=implementation)
    np.testing.assert_allclose(out, formula(q, k, v, mask), atol=1e-5)


def test_pieces_group_items_and_give_the_gradients_of_the_whole(monkeypatch):
    q, k, v = arrays(6, 5, 7)
    monkeypatch.setattr(module, "CACHE", 2 * 5 * 7 * 3)  # three items per piece

    def gradients(implementation):
        return jax.grad(lambda *x: jnp.sum(jnp.sin(attention(*x, implementation=implementation))), (0, 1, 2))(q, k, v)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients("pieces"), gradients("xla"))


def test_large_scores_do_not_overflow():
    q, k, v = arrays(1, 3, 3)
    np.testing.assert_allclose(attention(100 * q, 100 * k, v), formula(100 * q, 100 * k, v), atol=1e-4)


def test_unknown_implementation_is_a_config_error():
    with pytest.raises(ConfigError, match="'flash' does not exist; known are: auto, xla"):
        attention(*arrays(1, 2, 2), implementation="flash")


def test_heads_that_do_not_divide_are_a_shape_error():
    with pytest.raises(ShapeError, match="3 heads do not divide a width of 8"):
        jax.eval_shape(Attention(3).init, jax.random.key(0), jnp.zeros((1, 2, 8)))


@given(
    share=st.integers(1, 3),
    own=st.integers(1, 4),
    extra=st.integers(1, 4),
    bits=st.lists(st.booleans(), min_size=1, max_size=3),
)
def test_joined_mask_hides_extra_keys_of_masked_clips_in_all_their_frames(share, own, extra, bits):
    mask = np.asarray(joined_mask(jnp.asarray(bits, jnp.float32), share, own, extra))
    assert mask.shape == (len(bits) * share, 1, own + extra)
    assert mask[..., :own].all()
    np.testing.assert_array_equal(mask[:, 0, own], np.repeat(bits, share))


def test_shared_context_equals_repeated_context():
    layer, rng = Attention(2), jax.random.key(0)
    x, context = jax.random.normal(rng, (6, 5, 8)), jax.random.normal(rng, (2, 3, 4))
    extra = jax.random.normal(rng, (2, 4, 8))
    cross = random_params(layer, x, context)
    np.testing.assert_allclose(
        layer.apply(cross, x, context), layer.apply(cross, x, jnp.repeat(context, 3, 0)), atol=1e-6
    )
    own = random_params(layer, x)
    shared = layer.apply(own, x, extra=extra)
    np.testing.assert_allclose(shared, layer.apply(own, x, extra=jnp.repeat(extra, 3, 0)), atol=1e-6)
    joined = [layer.apply(own, x[i : i + 1], jnp.concatenate([x[i], extra[i // 3]])[None]) for i in range(6)]
    np.testing.assert_allclose(shared, jnp.concatenate(joined), atol=1e-6)
