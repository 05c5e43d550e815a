"""What a training step needs at the least, from its trace alone: minutes where a compiler takes hours, and no compiler at all."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import jax
from ml_collections import ConfigDict

from launch.benchmarks.flops import flops
from launch.compiling.machines import GIB, Chip
from launch.compiling.programs import batch_shapes
from launch.compiling.report import held
from portrait_jax import systems
from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import BATCH_AXES, check_batch_size, described_mesh, make_mesh
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.state import merge
from portrait_jax.training.step import split_adversary
from portrait_jax.typing import PyTree


def estimated(config: ConfigDict, devices: int, sizes: dict[str, int], chip: Chip) -> dict[str, Any]:
    """Memory of a chip and operations, in the form of `report.compiled`.

    The state lies by the sharding rules; a gradient as what it is of. What the backward pass keeps is what a pullback of one
    device's examples closes over beside parameters, as if `tensor` and `sequence` did not share it out. On top come the arrays of
    the layer that is being computed, its gathered parameters, and what the compiler copies.

    Raises:
        ConfigError: for a stage without training, or a batch that the mesh does not divide.
    """
    if "train" not in config:
        raise ConfigError(f"{config.stage} does not train; only a training stage is estimated")
    task = systems.build(config)
    stage, mesh = task.stages[config.stage], described_mesh(devices, **sizes)
    check_batch_size(stage.batch_size, stage.optimizer.accumulate, mesh)
    state = state_shapes(task, config.stage, mesh)
    alone = make_mesh(data=1, devices=jax.devices()[:1])
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    clips = stage.batch_size // stage.optimizer.accumulate // parts
    batch = batch_shapes(config, clips, stage.frames, alone)
    own, adversary = split_adversary(state.trainable, stage)

    def loss(own: PyTree, rest: PyTree, batch: PyTree) -> Any:
        return task.loss(merge(own, rest), batch, jax.random.key(0), config.stage)[0]

    def pullback(own: PyTree, rest: PyTree, batch: PyTree) -> PyTree:
        return jax.vjp(lambda own: loss(own, rest, batch), own)[1]

    given = bare((own, merge(adversary, state.frozen), batch))
    kept = (counted(jax.eval_shape(pullback, *given)) - counted(given)).items()
    # What has the shape of a parameter is that parameter in the type of the computation, and lies as it does.
    spread = {leaf.shape: leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(state.trainable)}
    counted_flops = flops(jax.jit(jax.grad(loss)).trace(*given).jaxpr) * parts * stage.optimizer.accumulate
    memory = {
        "trained, moments and average": held((state.trainable, state.opt_state, state.ema)),
        "frozen": held(state.frozen),
        "gradients": held(state.trainable),
        "kept for the backward pass": sum(
            n * math.prod(spread.get(shape, shape)) * dtype.itemsize for (shape, dtype), n in kept
        )
        / GIB,
    }
    return {
        "fits": sum(memory.values()) <= chip.memory_gib,
        "flops": counted_flops,
        "flops_per_chip": counted_flops / devices,
        "least_gib": sum(memory.values()),
        "memory_gib": memory,
        "memory_of_chip_gib": chip.memory_gib,
        "mesh": dict(mesh.shape),
        "batch": stage.batch_size,
    }


def bare(tree: PyTree) -> PyTree:
    """Shapes that lie nowhere."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def counted(tree: PyTree) -> Counter:
    """How many arrays there are of each shape and type."""
    return Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))
