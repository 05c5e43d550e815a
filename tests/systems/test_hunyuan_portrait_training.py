"""HunyuanPortrait's training and the ablations of table 2 take a step at a tiny size, and move what the paper trains."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from configs.hunyuan_portrait import ABLATIONS
from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten
from portrait_jax.training.step import make_train_step
from tests.tiny import make_params
from tests.tiny_hunyuan import make_batch, make_system, shapes_of_params

TRAINED = {"denoiser", "image_encoder", "image_projection", "motion_memory", "guider"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [("train", "released"), ("train", "paper"), *((name, "released") for name in ABLATIONS)],
)
def test_a_step_moves_what_the_paper_trains(name, form):
    system = make_system(name, {"motion_memory": {"form": form}}, drop_all=0.0, drop_motion=0.0)
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


def test_what_a_teacher_adds_is_told_and_named():
    """Of shapes alone: layers over space and time answer to those of the teacher over space."""
    system = make_system("demo_attention")
    told = shapes_of_params(system), taught_batch(), jax.random.key(0)
    loss, terms = jax.eval_shape(functools.partial(system.loss, stage="demo_attention"), *told)
    assert loss.shape == () and terms.keys() == {"diffusion", "teacher"}
    with pytest.raises(ConfigError, match="config.teacher"):
        make_system("train", teacher=1.0)


@pytest.mark.slow
def test_a_student_is_asked_for_each_layer_of_its_teacher():
    """Layers over space and time stand where the teacher's over space alone do; noise is told in the teacher's own time."""
    system = make_system("demo_attention")
    params, batch = make_params(system), taught_batch()
    assert set(system.batch_keys) == set(batch)
    (loss, terms), gradient = jax.jit(
        jax.value_and_grad(lambda p: system.loss(p, batch, jax.random.key(0), "demo_attention"), has_aux=True)
    )(params)
    assert float(loss) == pytest.approx(float(0.2 * terms["diffusion"] + terms["teacher"]), rel=1e-5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["teacher"])), "the teacher learns nothing"
    layers = flatten(gradient["denoiser"])
    read = [np.abs(layers[name]).max() for name in layers if "processor/to_v_ip_0" in name]
    assert len(read) > 4 and min(read) > 0, "every motion attention is taught"


def taught_batch():
    batch = make_batch()
    return batch | {"control": batch["frames"]}
