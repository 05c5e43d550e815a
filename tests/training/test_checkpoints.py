"""Checkpoints: what is saved comes back into shapes alone, and only whole checkpoints of the same model count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import CheckpointError, ConfigError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.training.checkpoints import Checkpoints, latest_step, read_params, restore
from portrait_jax.training.loop import initial_state, state_shapes
from portrait_jax.training.state import flatten
from tests.training.toy import ToyTask, toy_stage

META = {"data": {"position": 3}, "config": {"task": "toy"}, "stage": "only"}


def one_device():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with one checkpoint, and the state in it."""
    workdir = tmp_path_factory.mktemp("run")
    with jax.set_mesh(one_device()), Checkpoints(workdir) as checkpoints:
        state = initial_state(ToyTask(), "only", 7, one_device(), ".")
        checkpoints.save(state, META)
        checkpoints.wait()
    return workdir, state


def test_a_state_comes_back_bit_for_bit_into_shapes_alone_and_onto_another_mesh(saved):
    workdir, state = saved
    for mesh in (one_device(), make_mesh(data=2, fsdp=4)):
        found, meta = restore(workdir, state_shapes(ToyTask(), "only", mesh))
        assert meta == META
        assert jax.tree.structure(found) == jax.tree.structure(state)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
            assert len(ours.sharding.device_set) == mesh.size


def test_what_is_frozen_may_be_kept_in_half_the_memory(tmp_path):
    """In the state, in the checkpoint, and in what a step is given after it; what trains stays float32."""
    task = ToyTask(toy_stage(frozen_dtype="bfloat16"))
    with jax.set_mesh(one_device()), Checkpoints(tmp_path) as checkpoints:
        state = initial_state(task, "only", 7, one_device(), ".")
        checkpoints.save(state, META)
        checkpoints.wait()
    assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((state.trainable, state.ema))} == {jnp.dtype(jnp.float32)}
    with jax.set_mesh(one_device()):
        whole = initial_state(ToyTask(), "only", 7, one_device(), ".")
    found, _ = restore(tmp_path, state_shapes(task, "only", one_device()))
    kept, exact = found.frozen["encoder"]["dense"]["kernel"], whole.frozen["encoder"]["dense"]["kernel"]
    assert kept.dtype == jnp.bfloat16 and np.array_equal(kept, exact.astype(jnp.bfloat16))
    with pytest.raises(ConfigError, match="train.frozen_dtype 'bfloat61' is not known; did you mean 'bfloat16'"):
        toy_stage(frozen_dtype="bfloat61")


def test_parameters_are_read_without_a_template(saved):
    workdir, state = saved
    params, meta, step = read_params(workdir)
    assert (meta, step) == (META, 0)
    assert flatten(params["ema"]).keys() == flatten(state.ema).keys()


def test_a_checkpoint_of_another_model_is_refused(saved):
    class Wider(ToyTask):
        def init(self, rng, stage):
            return {**super().init(rng, stage), "guider": {"scale": jnp.ones(2)}}

    with pytest.raises(CheckpointError, match=r"frozen/guider/scale"):
        restore(saved[0], state_shapes(Wider(), "only", one_device()))


def test_what_was_not_written_to_its_end_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp-0").mkdir(parents=True)
    assert latest_step(tmp_path) is None
    for read in (read_params, lambda workdir: restore(workdir, state_shapes(ToyTask(), "only", one_device()))):
        with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
            read(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints", "5.orbax-checkpoint-tmp-0"], "reading writes"


def test_a_folder_without_checkpoints_is_said_to_have_none(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoints; give a training's workdir"):
        read_params(tmp_path)
