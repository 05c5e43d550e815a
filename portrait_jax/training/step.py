"""One optimizer step, jitted: gradients of the trainable leaves, accumulated over microbatches, state donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import batch_sharding
from portrait_jax.training.optimizers import make_schedule
from portrait_jax.training.state import TrainState, merge, partition, update_average
from portrait_jax.training.task import AdversarialTask, Stage, Task
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray, PyTree

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
Gradients = Callable[[Batch, PRNGKeyArray], tuple[Metrics, Params]]
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


def accumulated(gradients: Gradients, batch: Batch, rng: PRNGKeyArray, count: int) -> tuple[Metrics, Params]:
    """Means of what `gradients` gives for `count` microbatches, one in memory at a time.

    For a loss that is a mean over examples this is the large batch's gradient. Random numbers differ: microbatch i
    draws from fold_in(rng, i).
    """
    if count == 1:
        return gradients(batch, rng)
    parts = microbatches(batch, count)
    shapes = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], parts), rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: PyTree, part: tuple[Batch, Array]) -> tuple[PyTree, None]:
        microbatch, index = part
        return jax.tree.map(jnp.add, total, gradients(microbatch, jax.random.fold_in(rng, index))), None

    total, _ = jax.lax.scan(add, zeros, (parts, jnp.arange(count)))
    return jax.tree.map(lambda leaf: leaf / count, total)


def split_adversary(trainable: Params, stage: Stage) -> tuple[Params, Params]:
    """(the leaves that learn the task, those that train against them); the latter are empty without an adversary."""
    if stage.adversary is None:
        return trainable, {}
    adversary, own = partition(trainable, stage.adversary.trainable)
    return own, adversary


def both_gradients(
    task: Task, stage: str, trainable: Params, frozen: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Metrics, Params]:
    """Metrics, and the gradient of each trainable leaf: of the adversary's loss for its leaves, else of the loss.

    Both sides are differentiated where they stand before the step (simultaneous gradient descent): what both compute
    alike, the compiler may compute once.
    """
    own, adversary = split_adversary(trainable, task.stages[stage])

    def loss(own: Params) -> tuple[Array, Mapping[str, Array]]:
        return task.loss(merge(merge(own, adversary), frozen), batch, rng, stage)

    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(own)
    metrics = {**metrics, "loss": value}
    if not adversary:
        return metrics, gradients

    def opposed(adversary: Params) -> tuple[Array, Mapping[str, Array]]:
        return task.adversary_loss(merge(merge(own, adversary), frozen), batch, rng, stage)  # type: ignore[attr-defined]

    (value, more), against = jax.value_and_grad(opposed, has_aux=True)(adversary)
    return {**metrics, **more, "adversary_loss": value}, merge(gradients, against)


def make_train_step(
    task: Task, stage: str, optimizer: optax.GradientTransformation, mesh: Mesh, shardings: PyTree = None
) -> jax.stages.Wrapped:
    """Builds a `TrainStep`, `step(state, batch) -> (state, metrics)`, jitted for `mesh`; the given state's buffers are reused.

    Args:
        task: gives `loss`, the mean over the batch, and `adversary_loss` where the stage has an adversary.
        stage: a name in `task.stages`.
        optimizer: from `make_optimizer`.
        mesh: the batch's axis 0 is split over its `data` and `fsdp` axes.
        shardings: the state's shardings (`sharding.rules.shardings`); None lets the state's own placement decide.

    Metrics are the task's, plus `loss`, `grad_norm` (before clipping) and `lr`, all float32 scalars; with an adversary
    these three of its own too, named `adversary_…`. Where a loss or a gradient is not finite the step is skipped: nothing but
    the number of the step changes, and the metric `skipped` is 1.

    Raises:
        ConfigError: if the stage has an adversary and the task no loss for it.
    """
    settings = task.stages[stage]
    if settings.adversary is not None and not isinstance(task, AdversarialTask):
        raise ConfigError(f"{task.name}:{stage} has an adversary, but no adversary_loss; leave train.adversary out")

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

        def gradients(microbatch: Batch, key: PRNGKeyArray) -> tuple[Metrics, Params]:
            return both_gradients(task, stage, state.trainable, state.frozen, microbatch, key)

        metrics, slopes = accumulated(gradients, batch, rng, settings.optimizer.accumulate)
        updates, opt_state = optimizer.update(slopes, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = state.ema
        if ema is not None:
            ema = update_average(ema, trainable, state.step, settings.ema_decay)
        metrics = {**metrics, **progress(slopes, settings, state.step)}
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        sound = finite(metrics)
        after = {"trainable": trainable, "opt_state": opt_state, "ema": ema}
        kept = {name: jax.tree.map(partial(jnp.where, sound), new, getattr(state, name)) for name, new in after.items()}
        return state.replace(step=state.step + 1, **kept), {**metrics, "skipped": 1 - sound.astype(jnp.float32)}

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    inputs, outputs = (shardings, batch_sharding(mesh)), (shardings, None)
    return jax.jit(step, donate_argnums=0, in_shardings=inputs, out_shardings=outputs)


def finite(metrics: Metrics) -> Array:
    """Whether every loss and every norm of gradients is a number."""
    told = [value for name, value in metrics.items() if name.endswith(("loss", "grad_norm"))]
    return jnp.isfinite(jnp.stack(told)).all()


def progress(gradients: Params, stage: Stage, step: Array) -> Metrics:
    """Norm of the gradients and learning rate, of each side."""
    sides = [("", stage.optimizer)] + ([("adversary_", stage.adversary.optimizer)] if stage.adversary else [])
    return {
        name: value
        for (prefix, config), side in zip(sides, split_adversary(gradients, stage))
        for name, value in (
            (f"{prefix}grad_norm", optax.global_norm(side)),
            (f"{prefix}lr", jnp.asarray(make_schedule(config, stage.steps)(step))),
        )
    }
