"""Protects: nobody sees what comes later, scores come from the table of tokens, and the small model's size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.backbones.gpt2 import GPT2, GPT2Config
from portrait_jax.errors import ShapeError
from tests.weights import random_params, tree_of

TINY = GPT2Config(vocabulary=11, positions=6, hidden=8, layers=2, heads=2)
IDS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def test_a_token_changes_itself_and_what_follows_but_nothing_before():
    variables = random_params(GPT2(TINY), IDS)
    apply = jax.jit(GPT2(TINY).apply)
    first, second = apply(variables, IDS), apply(variables, IDS.at[0, 2].set(7))
    moved = np.abs(np.asarray(first - second)).max(-1)
    assert moved[0, :2].max() < 1e-5 and moved[0, 2:].min() > 1e-4 and moved[1].max() == 0
    states = GPT2(TINY).apply(variables, IDS, scores=False)
    table = variables["params"]["wte"]["embedding"]
    np.testing.assert_allclose(first, states @ table.T, rtol=1e-4, atol=1e-4)


def test_too_many_tokens_are_refused():
    with pytest.raises(ShapeError, match="7 tokens exceed 6 positions"):
        tree_of(GPT2(TINY), np.zeros((1, 7), np.int32))


def test_the_defaults_are_gpt2_small():
    tree = tree_of(GPT2(), np.zeros((1, 4), np.int32))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) == 124_439_808
