"""One optimizer step: who gets gradients, accumulation, donation, meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.sharding.rules import shardings
from portrait_jax.training.loop import COMPILE_ONCE, initial_state
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten
from portrait_jax.training.step import make_train_step
from portrait_jax.training.task import OptimizerConfig
from tests import tiny
from tests.training.toy import ToyLoader, ToyTask, toy_stage


def steps(task, mesh, count=3, batch_size=16):
    """State and losses after `count` steps on `mesh`."""
    loader, losses = ToyLoader(batch_size), []
    with jax.set_mesh(mesh):
        state = initial_state(task, "only", 0, mesh, ".")
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(task, "only", make_optimizer(task.stage), mesh, placed)
        for _ in range(count):
            state, metrics = step(state, shard_batch(next(loader), mesh))
            losses.append(float(metrics["loss"]))
    return state, losses


def one_device():
    return make_mesh(data=1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def reference_steps():
    return steps(ToyTask(), one_device())


def assert_close(first, second, tolerance=1e-5):
    first, second = flatten(first), flatten(second)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=tolerance, rtol=tolerance, err_msg=name)


def test_gradients_reach_exactly_the_trainable_parameters():
    task = ToyTask(toy_stage(trainable=("denoiser/dense/.*",)))
    with jax.set_mesh(one_device()):
        before = initial_state(task, "only", 0, one_device(), ".")
        first = jax.tree.map(np.array, flatten(before.params))
    state, _ = steps(task, one_device())
    changed = {name for name, leaf in flatten(state.params).items() if not np.array_equal(leaf, first[name])}
    assert changed == {"denoiser/dense/kernel", "denoiser/dense/bias"}
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [(16, 8), (8,)])
    assert set(flatten(state.ema)) == changed


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_one_and_eight_devices_agree(sizes, monkeypatch, reference_steps):
    monkeypatch.setattr("portrait_jax.sharding.rules.SMALL", 0)  # so that the toy's leaves really are spread
    reference, losses = reference_steps
    state, others = steps(ToyTask(), make_mesh(**sizes))
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    assert_close(state.params, reference.params)
    assert len(state.trainable["denoiser"]["dense"]["kernel"].sharding.device_set) == 8
    spread = not state.trainable["denoiser"]["dense"]["kernel"].is_fully_replicated
    assert spread == (sizes.get("fsdp", 1) > 1)


def test_accumulation_equals_the_large_batch():
    quiet = {"noise": 0.0}  # microbatches draw other random numbers; without noise only the mean remains
    large, losses = steps(ToyTask(**quiet), one_device())
    task = ToyTask(toy_stage(optimizer=dataclasses.replace(toy_stage().optimizer, accumulate=4)), **quiet)
    small, others = steps(task, one_device())
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    assert_close(small.params, large.params)


def test_accumulation_agrees_on_eight_devices():
    task = ToyTask(toy_stage(batch_size=32, optimizer=OptimizerConfig(lr=1e-2, accumulate=2)))
    reference, losses = steps(task, one_device(), batch_size=32)
    state, others = steps(task, make_mesh(), batch_size=32)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    assert_close(state.params, reference.params)


def test_state_is_donated_and_nothing_is_retraced():
    task, mesh, loader = ToyTask(), one_device(), ToyLoader()
    with jax.set_mesh(mesh):
        state = initial_state(task, "only", 0, mesh, ".")
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(task, "only", make_optimizer(task.stage), mesh, placed)
        for _ in range(4):
            old = state
            state, _ = step(state, shard_batch(next(loader), mesh))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert task.traces == 1


def test_metrics_are_float32_scalars_with_gradient_norm_and_rate():
    task, mesh = ToyTask(), one_device()
    with jax.set_mesh(mesh):
        state = initial_state(task, "only", 0, mesh, ".")
        _, metrics = make_train_step(task, "only", make_optimizer(task.stage), mesh)(state, next(ToyLoader()))
    assert set(metrics) == {"loss", "error", "grad_norm", "lr", "skipped"} and metrics["skipped"] == 0
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())


def test_clipping_bounds_the_update_but_not_the_reported_norm():
    # Plain AdamW is invariant to a constant scale, so clipping shows in its first moment.
    task = ToyTask(toy_stage(optimizer=OptimizerConfig(lr=1e-2, clip_norm=1e-3)))
    state, _ = steps(task, one_device(), count=1)
    moments = state.opt_state[1][0].mu
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(moments)))
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_an_indivisible_batch_is_a_config_error():
    task = ToyTask(toy_stage(optimizer=OptimizerConfig(accumulate=3)))
    with pytest.raises(ConfigError, match="accumulate 3 does not divide the batch size 16"):
        steps(task, one_device(), count=1)


@pytest.fixture(scope="module")
def tiny_step():
    """`run(mesh)`: metrics and gradients (Adam's first moments) of one step of the small system."""
    system = tiny.make_system("demo_stage1")
    stage, params = system.stages["demo_stage1"], tiny.make_params(system)
    # Plain Adam moments: the clipped and warmed-up update would hide small gradients behind large ones.
    optimizer = make_optimizer(dataclasses.replace(stage, optimizer=OptimizerConfig()))

    def run(mesh):
        with jax.set_mesh(mesh):
            # A copy: the step donates its state.
            state = create_state(jax.tree.map(jnp.array, params), stage, optimizer, jax.random.key(0))
            placed = shardings(jax.eval_shape(lambda: state), mesh)
            state = jax.device_put(state, placed)
            batch = shard_batch(jax.tree.map(np.asarray, tiny.make_batch(clips=8, frames=1)), mesh)
            step = make_train_step(system, "demo_stage1", optimizer, mesh, placed).lower(state, batch)
            state, metrics = step.compile(COMPILE_ONCE)(state, batch)
        return metrics, {name: np.asarray(leaf) for name, leaf in flatten(state.opt_state[1][0].mu).items()}

    return run


@pytest.mark.slow
def test_one_and_eight_devices_agree_on_a_real_system(tiny_step, monkeypatch):
    monkeypatch.setattr("portrait_jax.sharding.rules.SMALL", 0)
    metrics, gradients = tiny_step(one_device())
    others, other_gradients = tiny_step(make_mesh(data=2, fsdp=4))
    for name in ("loss", "grad_norm"):
        assert others[name] == pytest.approx(metrics[name], rel=1e-4), name
    assert gradients.keys() == other_gradients.keys()
    scale = max(np.linalg.norm(leaf) for leaf in gradients.values())
    for name, leaf in gradients.items():
        difference = np.linalg.norm(other_gradients[name] - leaf)
        assert difference <= 1e-3 * np.linalg.norm(leaf) + 1e-5 * scale, name
