"""Protects: the pre-training of motion encoders teaches both of them, measures angles in degrees, and is what its stage trains."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hunyuan_portrait
from portrait_jax.errors import ConfigError
from portrait_jax.face.intensity import IntensityConfig
from portrait_jax.face.measures import head_pose
from portrait_jax.motion.face_task import FaceMotionTask, spread_loss
from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.systems import build
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten
from portrait_jax.training.step import make_train_step
from tests.animation import scene
from tests.tiny import make_params

FACE = 32
MOVED = {
    "motion": {"expression", "head_pose", "gan_generator", "appearance_encoder", "gan_discriminator"},
    "demo_motion": {"expression", "head_pose", "motion_memory", "landmark_reader", "token_reader"},
}
"""Stage → sub-networks that learn in it."""


@functools.cache
def task(stage: str = "demo_motion") -> FaceMotionTask:
    """A stage with the smallest networks."""
    config = hunyuan_portrait.get_config(stage)
    with config.unlocked():
        config.model.head.weights.update({"vgg19": 0.0, "vggface": 0.0})
        config.model.face_size = FACE
        config.model.expression.update({"layers": (1, 1), "channels": (4, 4), "out": 8})
        config.model.head_pose.update({"layers": (1, 1), "channels": (4, 4), "norm_groups": 2})
        config.model.head.update({"pictures": {"channels": (8, 8, 8), "style": 8, "group": 2}, "appearance": 8})
        config.model.head.resnet.update({"layers": (1, 1), "channels": (4, 4)})
        config.train.update({"steps": 1, "batch_size": 2, "frames": 2, "warmup_steps": 0})
    return build(config)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Two clips of two frames, each with a third one as its reference."""
    clips = [scene.make_clip(9)] * 2
    chosen = [np.array([0, 6]), np.array([3, 8])]
    return {
        "frames": np.stack([clip["frames"][i] for clip, i in zip(clips, chosen)]),
        "landmarks": np.stack([clip["landmarks"][i] for clip, i in zip(clips, chosen)]),
        "reference": np.stack([clip["frames"][5] for clip in clips]),
        "reference_landmarks": np.stack([clip["landmarks"][5] for clip in clips]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVED)
def test_a_step_moves_both_encoders_and_what_reads_them(batch, name):
    stage, mesh = task(name).stages[name], make_mesh(data=1, devices=jax.devices()[:1])
    optimizer = make_optimizer(stage)
    with jax.set_mesh(mesh):
        state = create_state(make_params(task(name)), stage, optimizer, jax.random.key(0))
        before = jax.device_get(flatten(state.trainable))
        after, metrics = make_train_step(task(name), name, optimizer, mesh)(state, shard_batch(batch, mesh))
    moved = {leaf for leaf, value in flatten(after.trainable).items() if not np.array_equal(value, before[leaf])}
    assert {leaf.split("/")[0] for leaf in moved} == MOVED[name]
    assert np.isfinite(metrics["loss"])
    assert metrics["gan_recon" if name == "motion" else "landmarks"] > 0


def test_tokens_are_told_levels_and_teach_the_memory_not_the_encoder(batch):
    one, given = task(), jax.tree.map(jnp.asarray, batch)
    params = {"motion_memory": make_params(one)["motion_memory"]}
    feature = jax.random.normal(jax.random.key(0), (2, 3, 8))

    def asked(params, feature, one=one):
        return jnp.square(one._tokens(params, feature, given)).sum()

    own, passed = jax.jit(jax.grad(asked, (0, 1)))(params, feature)
    # Other levels, other tokens.
    more = IntensityConfig("paper", factors=(4096.0, 4096.0))
    told = [
        float(jax.jit(functools.partial(asked, one=each))(params, feature))
        for each in (one, replace(one, intensity=more))
    ]
    assert told[0] != told[1]
    assert any(np.any(leaf) for leaf in jax.tree.leaves(own)) and not np.any(passed)


def test_levels_are_measured_as_the_config_says_and_known_to_the_memory():
    config = hunyuan_portrait.get_config("demo_motion")
    config.model.intensity.update({"rule": "paper", "factors": (4096.0, 4096.0)})
    assert build(config).intensity == IntensityConfig("paper", factors=(4096.0, 4096.0))
    config.model.intensity.levels = 129
    with pytest.raises(ConfigError, match="more than the 128 of motion_memory.levels"):
        build(config)


def test_features_are_asked_to_move_about_nothing_in_particular():
    """As large as unit noise there is nothing to ask for; a constant, and movements that are small beside it, are asked away."""
    moving = jax.random.normal(jax.random.key(0), (64, 5, 8))

    def asked(feature):
        return float(spread_loss(feature))

    assert asked(moving) < 0.01
    assert asked(moving + 3) == pytest.approx(9, abs=0.5)
    assert asked(0.01 * moving) == pytest.approx(1, abs=0.02)
    # Who it is makes no difference: what is alike in all frames of a clip is not movement.
    people = jax.random.normal(jax.random.key(1), (64, 1, 8)) + 0 * moving
    assert asked(people) == pytest.approx(1, abs=0.05)


def test_terms_that_need_others_say_so():
    config = hunyuan_portrait.get_config("motion")
    config.loss.redrawing = 0.0
    with pytest.raises(ConfigError, match="leave train.adversary out"):
        build(config)
    config.loss.update({"redrawing": 1.0, "spread": 1.0})
    with pytest.raises(ConfigError, match="set loss.landmarks too"):
        build(config)
    config = hunyuan_portrait.get_config("demo_motion")
    config.loss.update({"landmarks": 0.0, "spread": 0.0})
    with pytest.raises(ConfigError, match="motion_memory learns from landmarks"):
        build(config)


@pytest.mark.slow
def test_the_error_of_the_angles_is_in_degrees_and_the_feature_is_not_told_them(batch):
    one = task()
    params = make_params(one)
    params["head_pose"]["fc"] = jax.tree.map(jnp.zeros_like, params["head_pose"]["fc"])
    given = jax.tree.map(jnp.asarray, batch)
    (_, metrics), gradients = jax.jit(
        jax.value_and_grad(lambda p: one.loss(p, given, jax.random.key(0), "demo_motion"), has_aux=True)
    )(params)
    # A last layer of zeros says 0 degrees of everything.
    assert metrics["angles"] == pytest.approx(np.abs(head_pose(batch["landmarks"])).mean(), rel=0.02)
    for name in ("expression", "head_pose"):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients[name])), name


def test_full_size_encoders_are_those_of_the_release():
    full, released = (build(hunyuan_portrait.get_config(name)) for name in ("motion", "released"))
    assert (full.expression_config, full.head_pose_config) == (released.expression_config, released.head_pose_config)
    shapes = jax.eval_shape(full.init, jax.random.key(0))
    assert shapes["expression"]["fc"]["kernel"].shape == (2048, 512) and full.head.motion == 512 + 3
