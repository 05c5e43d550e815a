"""Protects: what the motion autoencoder learns from, and that it learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import motion_prior
from portrait_jax.errors import ConfigError
from portrait_jax.motion.vqvae_task import STATISTICS, MotionVQTask, restore_scale, smooth_l1, standardise
from portrait_jax.training.state import flatten, partition


@pytest.fixture(scope="module")
def task():
    config = motion_prior.get_config("vqvae_demo")
    config.model.vqvae.update({"motion": 2, "width": 12, "codes": 16, "code_dim": 4})
    return MotionVQTask.from_config(config)


@pytest.fixture(scope="module")
def params(task):
    return jax.jit(task.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    t = np.arange(32) / 8
    phase = np.linspace(0, 6, 8)[:, None]
    return {"motion": jnp.asarray(np.stack([np.sin(t + phase), np.cos(2 * t + phase)], -1), jnp.float32)}


@pytest.fixture(scope="module")
def gradient(task):
    return jax.jit(jax.value_and_grad(lambda params, batch: task.loss(params, batch, jax.random.key(0)), has_aux=True))


def test_the_loss_is_the_weighted_sum_of_its_terms_and_reaches_every_trained_leaf(task, params, batch, gradient):
    (loss, metrics), slopes = gradient(params, batch)
    weights = {"recon": 1.0, "velocity": 0.5, "codebook": 1.0, "commitment": 0.02, "revival": 0.1}
    assert float(loss) == pytest.approx(
        sum(weight * float(metrics[name]) for name, weight in weights.items()), rel=1e-5
    )
    assert set(metrics) - weights.keys() == {"codes_used", "perplexity"}
    trained, frozen = partition(slopes, task.stages["vqvae"].trainable)
    assert [name for name, leaf in flatten(trained).items() if not np.abs(leaf).max() > 0] == []
    assert set(frozen) == {STATISTICS}


def test_a_few_steps_make_the_reconstruction_better(params, batch, gradient):
    current, recon = params, []
    for _ in range(40):
        (_, metrics), slopes = gradient(current, batch)
        recon.append(float(metrics["recon"]))
        current = {
            **current,
            "vqvae": jax.tree.map(lambda leaf, slope: leaf - 0.01 * jnp.sign(slope), current["vqvae"], slopes["vqvae"]),
        }
    assert min(recon[-5:]) < 0.6 * recon[0]


def test_the_scale_of_latents_does_not_matter_once_it_is_measured(params, batch, gradient):
    statistics = {"mean": jnp.array([5.0, -3.0]), "std": jnp.array([10.0, 0.1])}
    scaled = {"motion": restore_scale(statistics, batch["motion"])}
    np.testing.assert_allclose(standardise(statistics, scaled["motion"]), batch["motion"], atol=1e-4)
    (loss, _), _ = gradient({**params, STATISTICS: statistics}, scaled)
    assert float(loss) == pytest.approx(float(gradient(params, batch)[0][0]), rel=1e-2)


def test_smooth_l1_is_quadratic_near_nothing_and_linear_far_off():
    assert float(smooth_l1(jnp.array([0.5, -3.0]))) == pytest.approx((0.125 + 2.5) / 2)


def test_a_mistyped_setting_names_the_nearest():
    config = motion_prior.get_config("vqvae_demo")
    config.loss = {"comitment": 0.02}
    with pytest.raises(ConfigError, match="did you mean 'commitment'"):
        MotionVQTask.from_config(config)
