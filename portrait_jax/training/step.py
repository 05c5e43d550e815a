"""One optimizer step, jitted: gradients of the trainable leaves, accumulated over microbatches, state donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import batch_sharding
from portrait_jax.training.optimizers import make_schedule
from portrait_jax.training.state import TrainState, merge, update_average
from portrait_jax.training.task import Task
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray, PyTree

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def microbatches(batch: Batch, count: int) -> Batch:
    """Splits axis 0 (b) into (count, b/count): microbatch i takes examples i, i+count, …

    The stride keeps each device's examples on that device when axis 0 is sharded.

    Raises:
        ConfigError: if `count` does not divide b.
    """

    def split(x: Array) -> Array:
        if x.shape[0] % count:
            raise ConfigError(f"accumulate {count} does not divide the batch size {x.shape[0]}")
        return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def accumulated_gradients(
    loss: Callable[[Params, Batch, PRNGKeyArray], tuple[Array, Mapping[str, Array]]],
    trainable: Params,
    batch: Batch,
    rng: PRNGKeyArray,
    count: int,
) -> tuple[Metrics, Params]:
    """Mean metrics (with `loss`) and mean gradients over `count` microbatches, one in memory at a time.

    For a loss that is a mean over examples this is the large batch's gradient. Random numbers differ: microbatch i
    draws from fold_in(rng, i).
    """

    def one(microbatch: Batch, key: PRNGKeyArray) -> tuple[Metrics, Params]:
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, microbatch, key)
        return {**metrics, "loss": value}, gradients

    if count == 1:
        return one(batch, rng)
    parts = microbatches(batch, count)
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: PyTree, part: tuple[Batch, Array]) -> tuple[PyTree, None]:
        microbatch, index = part
        return jax.tree.map(jnp.add, total, one(microbatch, jax.random.fold_in(rng, index))), None

    total, _ = jax.lax.scan(add, zeros, (parts, jnp.arange(count)))
    return jax.tree.map(lambda leaf: leaf / count, total)


def make_train_step(
    task: Task, stage: str, optimizer: optax.GradientTransformation, mesh: Mesh, shardings: PyTree = None
) -> jax.stages.Wrapped:
    """Builds a `TrainStep`, `step(state, batch) -> (state, metrics)`, jitted for `mesh`; the given state's buffers are reused.

    Args:
        task: gives `loss`, the mean over the batch.
        stage: a name in `task.stages`.
        optimizer: from `make_optimizer`.
        mesh: the batch's axis 0 is split over its `data` and `fsdp` axes.
        shardings: the state's shardings (`sharding.rules.shardings`); None lets the state's own placement decide.

    Metrics are the task's, plus `loss`, `grad_norm` (before clipping) and `lr`, all float32 scalars.
    """
    settings = task.stages[stage]
    schedule = make_schedule(settings.optimizer, settings.steps)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

        def loss(trainable: Params, microbatch: Batch, key: PRNGKeyArray) -> tuple[Array, Mapping[str, Array]]:
            return task.loss(merge(trainable, state.frozen), microbatch, key, stage)

        metrics, gradients = accumulated_gradients(loss, state.trainable, batch, rng, settings.optimizer.accumulate)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = state.ema
        if ema is not None:
            ema = update_average(ema, trainable, state.step, settings.ema_decay)
        metrics = {**metrics, "grad_norm": optax.global_norm(gradients), "lr": jnp.asarray(schedule(state.step))}
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state, ema=ema), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    inputs, outputs = (shardings, batch_sharding(mesh)), (shardings, None)
    return jax.jit(step, donate_argnums=0, in_shardings=inputs, out_shardings=outputs)
