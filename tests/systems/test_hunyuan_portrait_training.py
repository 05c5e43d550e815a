"""HunyuanPortrait's training and the ablations of table 2 take a step at a tiny size, and move what the paper trains."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from configs.hunyuan_portrait import ABLATIONS
from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten
from portrait_jax.training.step import make_train_step
from tests.tiny import make_params
from tests.tiny_hunyuan import make_batch, make_system

TRAINED = {"denoiser", "image_encoder", "image_projection", "motion_memory", "guider"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", *ABLATIONS])
def test_a_step_moves_what_the_paper_trains(name):
    system = make_system(name, drop_all=0.0, drop_motion=0.0)
    stage, mesh = system.stages[name], make_mesh(data=1, devices=jax.devices()[:1])
    optimizer, batch = make_optimizer(stage), jax.device_get(make_batch(stage.batch_size, stage.frames))
    with jax.set_mesh(mesh):
        state = create_state(make_params(system), stage, optimizer, jax.random.key(0))
        before = jax.device_get(flatten(state.trainable))
        step = make_train_step(system, name, optimizer, mesh)
        after, metrics = step(state, shard_batch(batch, mesh))
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    moved = {leaf for leaf, value in flatten(after.trainable).items() if not np.array_equal(value, before[leaf])}
    assert {leaf.split("/")[0] for leaf in moved} == TRAINED - ({"image_encoder"} if name == "no_adapter" else set())
    assert all("/adapter/" in leaf for leaf in moved if leaf.startswith("image_encoder"))
