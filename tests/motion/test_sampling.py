"""Protects: codes are drawn from what the prior says, after the right context, likeliest first where asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.motion.sampling import continue_codes, keep_likely

CODES = 7


def successor(tokens):
    """A prior that is certain: after code c comes c + 1; after a start token 10 + s comes s."""
    following = jnp.where(tokens >= 10, tokens - 10, tokens + 1) % CODES
    return 50.0 * jax.nn.one_hot(following, CODES)


def draw(scores, start, prefix, count, context, seed=0, **settings):
    run = jax.jit(lambda start, prefix, key: continue_codes(scores, start, prefix, count, context, key, **settings))
    return np.asarray(run(jnp.asarray(start), jnp.asarray(prefix, jnp.int32), jax.random.key(seed)))


def test_each_code_follows_the_one_before_far_beyond_the_window():
    found = draw(successor, [13, 10], [[1, 2], [4, 5]], 9, context=4)
    np.testing.assert_array_equal(found, [(3 + np.arange(9)) % CODES, (6 + np.arange(9)) % CODES])


def test_without_a_prefix_the_start_token_decides():
    found = draw(successor, [13, 15], np.zeros((2, 0)), 3, context=4)
    np.testing.assert_array_equal(found, [[3, 4, 5], [5, 6, 0]])


def test_a_prior_sees_the_start_and_the_last_codes_in_order():
    def remembers(tokens):
        # The sum of all tokens seen so far, start token included: wrong order, padding or length would show.
        weights = jnp.arange(1, tokens.shape[1] + 1)
        return 50.0 * jax.nn.one_hot(jnp.cumsum(tokens * weights, axis=1) % CODES, CODES)

    context, given, found = 3, [1, 6], []
    for _ in range(6):
        window = [10, *given[-context:]]
        given.append(int(np.dot(window, np.arange(1, len(window) + 1)) % CODES))
        found.append(given[-1])
    assert draw(remembers, [10], [[1, 6]], 6, context).tolist() == [found]
    assert draw(remembers, [10], [[5, 5, 5, 1, 6, 2]], 1, context).tolist() == [[(10 + 2 + 18 + 8) % CODES]]


def test_draws_are_as_frequent_as_the_prior_says_and_differ_by_key():
    share = jnp.log(jnp.array([0.5, 0.3, 0.2]))

    def scores(tokens):
        return jnp.broadcast_to(share, (*tokens.shape, 3))

    found = draw(scores, np.zeros(500, int), np.zeros((500, 0)), 6, context=1, top_p=1.0)
    np.testing.assert_allclose(np.bincount(found.ravel()) / found.size, [0.5, 0.3, 0.2], atol=0.04)
    assert not np.array_equal(found, draw(scores, np.zeros(500, int), np.zeros((500, 0)), 6, 1, seed=1, top_p=1.0))
    likely = draw(scores, np.zeros(500, int), np.zeros((500, 0)), 6, context=1, top_p=0.6)
    assert set(likely.ravel()) == {0, 1}
    cold = draw(scores, np.zeros(50, int), np.zeros((50, 0)), 6, context=1, temperature=0.01)
    assert set(cold.ravel()) == {0}


def test_the_likeliest_codes_that_reach_the_share_stay():
    scores = jnp.log(jnp.array([[0.1, 0.6, 0.05, 0.25]]))
    for top_p, kept in ((0.01, [1]), (0.59, [1]), (0.7, [1, 3]), (0.9, [0, 1, 3]), (1.0, [0, 1, 2, 3])):
        assert np.flatnonzero(np.isfinite(keep_likely(scores, top_p)[0])).tolist() == kept, top_p
    np.testing.assert_array_equal(keep_likely(scores, 0.7)[0, 3], scores[0, 3])


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"context": 0}])
def test_settings_out_of_range_are_config_errors(settings):
    with pytest.raises(ConfigError, match="sampling needs"):
        draw(successor, [10], [[1]], 1, **{"context": 2, **settings})
