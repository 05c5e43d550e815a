"""The probe's network and its training task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.probe import get_config
from portrait_jax.errors import ConfigError
from portrait_jax.metrics.points import POINTS
from portrait_jax.metrics.probe import Probe, ProbeConfig, ProbeTask, centre_of_mass, heat_error, point_weights, to_size
from portrait_jax.training.task import Stage

SMALL = ProbeConfig(attributes=3, size=32, channels=(8, 8, 8, 8), augment=False)


def task(config=SMALL):
    return ProbeTask(config, {"train": Stage(trainable=("probe/.*",), steps=1, batch_size=4)})


def batch(size=32):
    """Dots whose place is the place of all points: a task that a tiny network learns in seconds."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(8, 24, (4, 2))
    y, x = np.mgrid[:size, :size] + 0.5
    distance = (x - centre[:, :1, None] * size / 32) ** 2 + (y - centre[:, 1:, None] * size / 32) ** 2
    image = np.repeat((255 * np.exp(-distance / 18 * (32 / size) ** 2)).astype(np.uint8)[..., None], 3, axis=-1)
    landmarks = np.concatenate([centre, np.zeros((4, 1))], axis=-1)[:, None].repeat(478, axis=1) * size / 32
    landmarks[:, 234, 0] -= size / 4
    landmarks[:, 454, 0] += size / 4
    return {"image": image, "landmarks": landmarks.astype(np.float32), "attributes": np.zeros((4, 3), np.float32)}


def test_centre_of_mass_finds_a_peak_and_splits_two():
    heat = jnp.zeros((1, 4, 8, 2)).at[0, 1, 6, 0].set(50.0).at[0, 0, 0, 1].set(50.0).at[0, 3, 7, 1].set(50.0)
    np.testing.assert_allclose(centre_of_mass(heat)[0], [[6.5 / 8, 1.5 / 4], [0.5, 0.5]], atol=1e-5)


def test_heat_error_is_nothing_for_the_wanted_bell_and_ignores_points_off_the_picture():
    y, x = np.mgrid[:8, :8]
    bell = -((x - 5) ** 2 + (y - 2) ** 2) / 2
    heat = jnp.asarray(np.repeat(bell[None, ..., None], 3, axis=-1), jnp.float32)
    there, elsewhere, outside = [5.5 / 8, 2.5 / 8], [2.5 / 8, 2.5 / 8], [1.2, 0.5]
    found = heat_error(heat, jnp.asarray([[there, elsewhere, outside]], jnp.float32))[0]
    np.testing.assert_allclose(found, [0, 4.5, 0], atol=0.1)  # nats between bells three cells apart: 3²/2


def test_the_shipped_network_is_small():
    model = ProbeConfig(**get_config().model)
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    shapes = jax.eval_shape(Probe(model).init, jax.eval_shape(jax.random.key, 0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert 100_000 < count <= 300_000


def test_small_parts_weigh_more_and_the_mean_weight_is_one():
    weight = dict(zip(POINTS, point_weights(), strict=True))
    assert weight[13] == weight[468] == 2 * weight[152]
    assert np.mean(point_weights()) == pytest.approx(1)


def test_a_tiny_probe_learns_to_find_a_dot():
    this = task()
    params, data, rng = this.init(jax.random.key(0)), batch(), jax.random.key(1)
    step = jax.jit(jax.value_and_grad(this.loss, has_aux=True))
    (_, before), _ = step(params, data, rng)
    for _ in range(40):
        (_, metrics), grads = step(params, data, rng)
        params = jax.tree.map(lambda p, g: p - 0.1 * jnp.sign(g) * jnp.minimum(jnp.abs(g), 0.05), params, grads)
    assert float(metrics["points_error"]) < 0.6 * float(before["points_error"])


def test_loss_does_not_depend_on_the_resolution_of_the_pictures():
    this = task()
    params = this.init(jax.random.key(0))
    loss = jax.jit(this.loss)
    small, _ = loss(params, batch(32), jax.random.key(1))
    large, _ = loss(params, batch(64), jax.random.key(1))
    assert float(small) == pytest.approx(float(large), rel=0.02)


def test_augmentation_is_decided_by_the_key():
    this = task(ProbeConfig(attributes=3, size=32, channels=(8, 8, 8, 8)))
    params = this.init(jax.random.key(0))
    loss = jax.jit(this.loss)
    first, again, other = (float(loss(params, batch(), jax.random.key(k))[0]) for k in (1, 1, 2))
    assert first == again != other


def test_resizing_keeps_an_image_of_the_right_size():
    image = jnp.ones((1, 32, 32, 3))
    assert to_size(image, 32) is image and to_size(image, 16).shape == (1, 16, 16, 3)


def test_the_config_builds_the_task_and_a_typo_is_named():
    config = get_config()
    assert ProbeTask.from_config(config).stages["train"].batch_size == config.train.batch_size
    with config.unlocked():
        config.model.chanels = (8,)
    with pytest.raises(ConfigError, match="chanels.*channels"):
        ProbeTask.from_config(config)
