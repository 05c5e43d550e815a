"""The motion memory: frames are alone, intensity matters, ablations leave out what they name, the paper's form is equation 4."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from portrait_jax.adapters.motion_memory import MotionMemory, MotionMemoryConfig
from portrait_jax.errors import ConfigError
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.feedforward import MLP
from portrait_jax.nn.norms import AdaLayerNorm, LayerNorm
from tests.weights import random_params, shapes

TINY = MotionMemoryConfig(tokens=3, width=8, intensity_width=4, levels=6, layers=2, heads=2, out=5)
PAPER = replace(TINY, form="paper", intensity_width=8)
FEATURES, LEVEL = jax.random.normal(jax.random.key(0), (1, 3, 1, 7)), jnp.array([[0, 2, 2]])


@pytest.fixture(scope="module", params=[TINY, PAPER], ids=["released", "paper"])
def run(request):
    params = random_params(MotionMemory(request.param), FEATURES, LEVEL, LEVEL)
    return jax.jit(lambda *args: MotionMemory(request.param).apply(params, *args))


def test_a_frame_sees_its_own_feature_and_level_alone(run):
    out = run(FEATURES, LEVEL, LEVEL)
    assert out.shape == (1, 3, 3, 5)
    changed = np.abs(run(FEATURES.at[:, 1].add(1), LEVEL, LEVEL) - out).max((0, 2, 3))
    assert changed[1] > 1e-3 and not changed[[0, 2]].any()
    for levels in ((LEVEL.at[0, 2].set(5), LEVEL), (LEVEL, LEVEL.at[0, 2].set(5))):
        changed = np.abs(run(FEATURES, *levels) - out).max((0, 2, 3))
        assert changed[2] > 1e-3 and not changed[:2].any()


def test_by_the_paper_the_memory_asks_and_features_that_know_the_intensity_answer():
    """Equation 4 written out, with two blocks, and four features of each frame."""
    features = jax.random.normal(jax.random.key(1), (1, 3, 4, 7))
    given = random_params(MotionMemory(PAPER), features, LEVEL, LEVEL)
    # Memories that differ as much as trained ones may.
    given["params"]["connector"]["latents"] *= 30
    out = jax.jit(MotionMemory(PAPER).apply)(given, features, LEVEL, LEVEL + 1)

    @jax.jit
    def written_out(params):
        inner = params["connector"]
        tables = [params[name]["embedding"][level[0]] for name, level in
                  (("position_head", LEVEL), ("position_exp", LEVEL + 1))]  # fmt: skip
        told = jnp.concatenate(tables, axis=-1)
        x = nn.Dense(8).apply({"params": inner["proj_in"]}, features[0])
        for i in range(PAPER.layers):
            block = inner[f"perceiver_blocks_{i}"]

            def use(module, name, *args, block=block):
                return module.apply({"params": block[name]}, *args)

            answers = use(AdaLayerNorm(), "ln_2", x + told[:, None], told)
            asking = jnp.broadcast_to(inner["latents"], (3, 3, 8))
            x = use(Attention(2, qkv_bias=True), "attn", asking, answers)
            x = use(MLP(32, "silu", names=("c_fc", "c_proj")), "mlp", use(AdaLayerNorm(), "ln_ff", x, told))
        last = nn.Dense(5).apply({"params": inner["proj_out_0"]}, x)
        return LayerNorm().apply({"params": inner["proj_out_1"]}, last)

    np.testing.assert_allclose(out[0], written_out(given["params"]), atol=1e-5)
    assert np.ptp(out, axis=2).max() > 1e-2
    # A single feature is the only answer that any memory gets.
    alone = jax.jit(MotionMemory(PAPER).apply)(given, FEATURES, LEVEL, LEVEL)
    assert np.ptp(alone, axis=2).max() < 1e-5


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="no form 'papers'; did you mean 'paper'"):
        MotionMemoryConfig(form="papers")
    with pytest.raises(ConfigError, match="intensity_width 4 equal to its width 8"):
        replace(TINY, form="paper")


@pytest.mark.parametrize("whole", [TINY, PAPER], ids=["released", "paper"])
def test_ablations_have_no_memory_or_no_intensity(whole):
    args = (FEATURES, LEVEL, LEVEL)
    plain = replace(whole, memory=False)
    params = random_params(MotionMemory(plain), *args)
    assert not any("perceiver" in path or "latents" in path for path in shapes(params["params"]))
    assert jax.jit(MotionMemory(plain).apply)(params, *args).shape == (1, 3, 3, 5)
    deaf = replace(whole, intensity=False)
    params = random_params(MotionMemory(whole), *args)
    run = jax.jit(lambda *args: MotionMemory(deaf).apply(params, *args))
    np.testing.assert_array_equal(run(*args), run(FEATURES, LEVEL + 1, LEVEL + 2))
