"""Entropies of attention: what one token and all alike give, sharing of tokens by frames, and where a denoiser is looked at."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError
from portrait_jax.metrics.attention_entropy import attention_entropies, entropy
from tests.tiny import make_params
from tests.tiny_anyexpress import make_driving, make_system


def test_one_token_gives_zero_and_all_alike_give_one():
    q, k = jnp.ones((2, 3, 4)), jnp.zeros((1, 5, 4))
    assert float(entropy(q, k, 2)) == pytest.approx(1.0)
    assert float(entropy(100 * q, k.at[:, 0].set(100.0), 2)) == pytest.approx(0.0, abs=1e-6)


def test_entropy_is_that_of_the_softmax_head_by_head_and_frame_by_frame():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(4, 3, 6)).astype(np.float32), rng.normal(size=(2, 5, 6)).astype(np.float32)
    found = []
    for item in range(4):
        for head in range(2):
            at = slice(3 * head, 3 * head + 3)
            scores = q[item, :, at] @ k[item // 2, :, at].T / np.sqrt(3)
            p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            found += list(-(p * np.log(p)).sum(1) / np.log(5))
    assert float(entropy(jnp.asarray(q), jnp.asarray(k), 2)) == pytest.approx(np.mean(found), rel=1e-5)


def test_every_condition_that_is_told_is_found_in_every_transformer():
    system = make_system()
    params, x = make_params(system)["denoiser"], jnp.ones((1, 4, *system.latent_shape()))
    heads = {"text": 2, "identity": 2, "sound": 2}

    @jax.jit
    def look(params, conditioning):
        return attention_entropies(system.denoiser, params, heads, x, jnp.ones(1), conditioning)

    audio = (
        make_driving(system)["audio"].mean((2, 3))[:, :, None, :1] * jnp.ones((1, 4, 2, 16)) * jnp.arange(2)[:, None]
    )
    told = Conditioning(
        text=jnp.ones((1, 3, 16)), image_tokens=jax.random.normal(jax.random.key(0), (1, 2, 16)), audio=audio
    )
    found = look(params, told)
    assert found.keys() == {"text", "identity", "sound"}
    blocks = {
        "down_blocks_0/attentions_0",
        "mid_block/attentions_0",
        "up_blocks_1/attentions_0",
        "up_blocks_1/attentions_1",
    }
    for each in found.values():
        assert each.keys() == blocks and all(0 <= value <= 1 + 1e-5 for value in each.values())
    assert all(value == pytest.approx(1, abs=1e-5) for value in found["text"].values()), (
        "equal tokens are looked at alike"
    )
    with pytest.raises(ConfigError, match="no condition of more than one token"):
        jax.eval_shape(lambda: attention_entropies(system.denoiser, params, heads, x, jnp.ones(1), Conditioning()))
