"""Protects: what the autoencoder learns from, and what its training shows."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import autoencoder
from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.autoencoders.task import AutoencoderTask, _reconstruct
from portrait_jax.errors import ConfigError
from portrait_jax.systems import build
from tests import tiny
from tests.systems.hallo3 import small


@pytest.fixture(scope="module")
def task() -> AutoencoderTask:
    config = autoencoder.get_config()
    config.model.image_size = 16
    config.model.autoencoder.update({"block_out_channels": (8, 8), "norm_groups": 4})
    return AutoencoderTask.from_config(config)


@pytest.fixture(scope="module")
def params(task):
    return tiny.make_params(task)


@pytest.fixture(scope="module")
def batch():
    # Smooth pictures: what an autoencoder is for.
    x = np.linspace(0, np.pi, 16)
    waves = [np.sin(k * x[:, None] + k) * np.cos(k * x[None, :]) for k in range(1, 11)]
    return {"image": jnp.asarray(127.5 + 100 * np.stack([waves] * 3, axis=-1), jnp.uint8)}


@pytest.fixture(scope="module")
def gradient(task):
    return jax.jit(jax.value_and_grad(lambda params, batch, rng: task.loss(params, batch, rng), has_aux=True))


def test_the_loss_is_its_three_terms_and_reaches_every_parameter(task, params, batch, gradient):
    (loss, metrics), found = gradient(params, batch, jax.random.key(0))
    assert float(loss) == pytest.approx(float(metrics["l1"] + metrics["edges"] + 1e-4 * metrics["kl"]), rel=1e-5)
    still = [name for name, leaf in tiny.leaves(found).items() if not np.abs(leaf).max() > 0]
    assert still == []
    image = to_pm1(batch["image"])
    mean, _ = task.network.apply({"params": params["autoencoder"]}, image, method="encode")
    assert float(metrics["latent_std"]) == pytest.approx(float(mean.std()), rel=1e-4)


def test_a_few_steps_make_the_reconstruction_better(task, params, batch, gradient):
    current, key, losses = params, jax.random.key(0), []
    for _ in range(12):
        (_, metrics), found = gradient(current, batch, key)
        losses.append(float(metrics["l1"]))
        current = jax.tree.map(lambda leaf, slope: leaf - 0.006 * jnp.sign(slope), current, found)
    assert losses[-1] < 0.4 * losses[0]


def test_samples_are_pictures_above_their_reconstructions_and_compile_once(task, params, batch):
    shown = task.samples(params, batch, jax.random.key(0))["reconstruction"]
    assert shown.shape == (32, 8 * 16, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[:16, 16:32], batch["image"][1])
    compiled = _reconstruct._cache_size()
    task.samples(params, batch, jax.random.key(1))
    assert _reconstruct._cache_size() == compiled


def test_a_mistyped_loss_names_the_nearest():
    config = autoencoder.get_config()
    config.loss = {"edge": 1.0}
    with pytest.raises(ConfigError, match="did you mean 'edges'"):
        AutoencoderTask.from_config(config)


def test_a_video_autoencoder_reads_clips_and_gives_back_as_many_frames():
    config = small.get_config("demo_autoencoder")
    config.model.image_size = 16
    made = build(config)
    shapes = jax.eval_shape(lambda: made.init(jax.random.key(0)))
    clips = jax.ShapeDtypeStruct((1, 9, 16, 16, 3), jnp.uint8)
    assert made.batch_keys == ("frames",)
    loss, metrics = jax.eval_shape(made.loss, shapes, {"frames": clips}, jax.random.key(0))
    assert loss.shape == () and metrics.keys() == {"l1", "edges", "kl", "latent_std", "psnr"}
    mean = jax.ShapeDtypeStruct((1, 3, 4, 4, config.model.autoencoder.latent_channels), jnp.float32)
    video = jax.eval_shape(partial(made.decode, made.network), shapes["autoencoder"], mean)
    assert video.shape == (1, 9, 16, 16, 3)
