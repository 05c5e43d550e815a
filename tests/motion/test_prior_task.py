"""Protects: what the prior sees and learns, what a label does, and that a clip is gone on from without a jump."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import motion_prior
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.motion.prior_task import MotionPriorTask
from portrait_jax.motion.vqvae_task import STATISTICS
from portrait_jax.training.state import flatten, partition

CODES = 8


def make(emotions=0, **train):
    config = motion_prior.get_config("gpt_demo")
    config.model.vqvae.update({"motion": 2, "width": 8, "codes": CODES, "code_dim": 3})
    config.model.prior.update({"positions": 12, "hidden": 16, "layers": 1, "heads": 2, "emotions": emotions})
    config.train.update({"frames": 32, **train})
    return MotionPriorTask.from_config(config)


@pytest.fixture(scope="module")
def task():
    return make(emotions=3)


@pytest.fixture(scope="module")
def params(task):
    return jax.jit(task.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"motion": jnp.asarray(rng.normal(size=(4, 32, 2)), jnp.float32), "emotion": jnp.array([0, 2, -1, 1])}


@pytest.fixture(scope="module")
def gradient(task):
    return jax.jit(jax.value_and_grad(lambda params, batch, key: task.loss(params, batch, key), has_aux=True))


def test_the_loss_is_the_cross_entropy_of_each_code_after_those_before_it(task, params, batch):
    plain = dataclasses.replace(task, loss_config=dataclasses.replace(task.loss_config, replaced=0.0, label_drop=0.0))
    loss, metrics = jax.jit(plain.loss)(params, batch, jax.random.key(0))
    codes = task.encode(params, batch["motion"])
    assert codes.shape == (4, 8)
    seen = jnp.concatenate([jnp.array([[CODES + 1], [CODES + 3], [CODES], [CODES + 2]]), codes[:, :-1]], axis=1)
    likely = jax.nn.log_softmax(task.scores(params, seen))
    assert likely.shape == (4, 8, CODES), "labels and the start token are never predicted"
    wanted = -np.take_along_axis(np.asarray(likely), np.asarray(codes)[..., None], axis=-1).mean()
    assert float(loss) == pytest.approx(wanted, rel=1e-4) and 0 <= float(metrics["accuracy"]) <= 1


def test_only_the_prior_learns_and_all_of_it(task, params, batch, gradient):
    _, slopes = gradient(params, batch, jax.random.key(0))
    trained, frozen = partition(slopes, task.stages["gpt"].trainable)
    assert set(frozen) == {"vqvae", STATISTICS}
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(frozen))
    assert [name for name, leaf in flatten(trained).items() if not np.abs(leaf).max() > 0] == []


def test_a_few_steps_learn_what_follows(task, params, batch, gradient):
    current, losses = params, []
    for i in range(30):
        (loss, _), slopes = gradient(current, batch, jax.random.key(i))
        losses.append(float(loss))
        moved = jax.tree.map(lambda leaf, slope: leaf - 0.01 * jnp.sign(slope), current["prior"], slopes["prior"])
        current = {**current, "prior": moved}
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_codes_are_replaced_and_labels_dropped_as_often_as_they_say(task):
    codes = jnp.zeros((2000, 8), jnp.int32)
    kept = np.asarray(task._replaced(jax.random.key(0), codes) == 0)
    # A random code is the same one time in CODES; shares are even between 0 and a half.
    assert 1 - kept.mean() == pytest.approx(0.25 * (1 - 1 / CODES), abs=0.02)
    assert 1 - kept.mean(1).min() > 0.4
    labels = jnp.full(5000, 1)
    start = np.asarray(task.start_tokens(labels, 5000, jax.random.key(0)))
    assert set(start) == {CODES, CODES + 2} and (start == CODES).mean() == pytest.approx(0.1, abs=0.02)
    assert make().start_tokens(labels[:3], 3).tolist() == [CODES] * 3, "without labels in the config none is read"


def test_batches_need_labels_only_where_they_are_used(task):
    assert task.batch_keys == ("motion", "emotion") and make().batch_keys == ("motion",)


def test_a_clip_is_gone_on_from_without_a_jump(task, params, batch):
    run = jax.jit(lambda params, motion, key: task.extend(params, motion, 50, key, emotion=1, fade=10))
    follows = np.asarray(run(params, batch["motion"][:, :30], jax.random.key(0)))
    assert follows.shape == (4, 50, 2)
    assert not np.array_equal(follows, run(params, batch["motion"][:, :30], jax.random.key(1)))
    codes = task.encode(params, batch["motion"][:, 2:30])
    rebuilt = np.asarray(task.decode(params, codes))
    # The first new frame is one fade step off the last given one plus what the decoder itself moves: never the whole jump.
    jump = np.abs(np.asarray(batch["motion"][:, 29]) - rebuilt[:, -1]).max()
    assert jump > 0.1
    whole = jax.jit(lambda params, motion, key: task.extend(params, motion, 50, key, emotion=1, fade=0))
    plain = np.asarray(whole(params, batch["motion"][:, :30], jax.random.key(0)))
    np.testing.assert_allclose(plain[:, 10:], follows[:, 10:], rtol=1e-4, atol=1e-5)
    offset = (follows - plain)[:, 0] / (1 - 1 / 11)
    assert np.abs(offset).max() > 0.05
    np.testing.assert_allclose(follows[:, 9] - plain[:, 9], offset / 11, atol=1e-4)


def test_what_cannot_be_gone_on_from_is_refused(task, params, batch):
    with pytest.raises(ShapeError, match="3 frames cannot be gone on from"):
        task.extend(params, batch["motion"][:, :3], 5, jax.random.key(0))
    with pytest.raises(ConfigError, match="emotion 3 does not exist; the prior knows 3"):
        task.extend(params, batch["motion"], 5, jax.random.key(0), emotion=3)


@pytest.mark.parametrize("frames", [4, 64])
def test_sequences_of_too_few_or_too_many_codes_are_config_errors(frames):
    with pytest.raises(ConfigError, match=f"train.frames {frames} are {frames // 4} codes"):
        make(frames=frames)
