"""GPT-2 equals transformers' class with random weights."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.backbones.gpt2 import GPT2, GPT2Config
from portrait_jax.interchange.layouts import Part, Signature
from portrait_jax.interchange.rules import SAME, KeyMap
from tests.parity.oracle import assert_parity, publish, randomised, transformers
from tests.weights import tree_of

pytestmark = pytest.mark.parity

TINY = GPT2Config(vocabulary=23, positions=10, hidden=12, layers=2, heads=3)
IDS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 22]])


def test_hidden_states_and_scores_equal_transformers():
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=10, n_embd=12, n_layer=2, n_head=3, attn_implementation="eager"
    )
    oracle = randomised(transformers.GPT2Model(config))
    module = GPT2(TINY)
    # GPT-2's linear layers are published as (in, out), like ours.
    table = KeyMap(keep=("ln_1", "ln_2"), kinds=((r"/kernel$", SAME),), ignored=(r"h\.\d+\.attn\.(masked_)?bias",))
    part = Part("prior", table, lambda: tree_of(module, IDS), Signature(()))
    weights = {name: value for name, value in oracle.state_dict().items() if not table.ignores(name)}
    published = publish(weights, part, module, jnp.asarray(IDS))

    def call(ids):
        return oracle(input_ids=ids).last_hidden_state

    def apply(params, ids, dtype):
        return GPT2(TINY, dtype).apply(params, ids, scores=False).astype(jnp.float32)

    assert_parity(oracle, call, apply, IDS, published, ["h.1.attn.c_attn.weight", "wpe.weight"])

    def scored(ids):
        return oracle(input_ids=ids).last_hidden_state @ oracle.wte.weight.T

    def scores(params, ids, dtype):
        return GPT2(TINY, dtype).apply(params, ids)

    assert_parity(oracle, scored, scores, IDS, published, ["h.0.mlp.c_fc.weight", "wte.weight"])
