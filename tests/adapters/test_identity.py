"""The identity adapter: where identities act, by the release's order of attention and by the paper's."""

import jax
import numpy as np
import pytest

from portrait_jax.adapters.identity import IdentityAdapter, IdentityAdapterConfig, identity_adapter
from portrait_jax.errors import ConfigError
from tests.weights import random_params

GRID, FIRST = (2, 3), 2
TINY = IdentityAdapterConfig(width=16, attention_width=8, heads=2)


def run(config: IdentityAdapterConfig, x, identity):
    module = IdentityAdapter(config)
    params = random_params(IdentityAdapter(TINY), x, identity, GRID)
    return jax.jit(lambda *args: module.apply(params, *args, GRID))(x, identity)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.normal(jax.random.key(0), (1, FIRST + 6, 5)), jax.random.normal(jax.random.key(1), (1, 1, 4))


def test_one_identity_says_the_same_to_all_patches_in_the_releases_order_only(tokens):
    """What reaches a patch beside itself: of the convolutions nothing in the release's order, something in the paper's."""
    x, identity = tokens
    neighbour = x.at[:, -1].add(1.0)
    for query, spreads in (("patches", False), ("identity", True)):
        config = IdentityAdapterConfig(**(vars(TINY) | {"query": query}))
        change = np.abs(run(config, neighbour, identity) - run(config, x, identity)).max((0, 2))
        assert (change[FIRST:-1] > 1e-5).all() == spreads
        assert not change[:FIRST].any() and change[-1] > 1e-3


def test_the_identity_reaches_patches_and_not_class_and_registers(tokens):
    x, identity = tokens
    change = np.abs(run(TINY, x, identity + 1) - run(TINY, x, identity)).max((0, 2))
    assert not change[:FIRST].any() and (change[FIRST:] > 1e-4).all()


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="did you mean 'patches'"):
        IdentityAdapterConfig(query="patch")
    with pytest.raises(ConfigError, match="multiple of 16"):
        IdentityAdapterConfig(width=20)
    assert identity_adapter(TINY).gain == 0.2
