"""About what a training step or a sampler needs, from its trace alone: minutes where a compiler takes hours, and none is needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from launch.benchmarks.flops import flops
from launch.compiling.machines import GIB, Chip
from launch.compiling.programs import LONG, batch_shapes, f32, program, u8
from launch.compiling.report import held
from portrait_jax import systems
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.continued import Clips
from portrait_jax.long_video.tiles import Tiles
from portrait_jax.sharding.mesh import BATCH_AXES, check_batch_size, described_mesh, make_mesh
from portrait_jax.sharding.placing import ONE_DEVICE
from portrait_jax.sharding.rules import shardings
from portrait_jax.systems.system import frame_size
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.state import merge
from portrait_jax.training.step import split_adversary
from portrait_jax.typing import PyTree


def estimated(config: ConfigDict, devices: int, sizes: dict[str, int], chip: Chip) -> dict[str, Any]:
    """Memory of a chip in GiB, and operations.

    The state lies by the sharding rules, exactly; it `fits` if this alone does. A gradient lies as what it is of. What the backward
    pass keeps is what a pullback of one device's examples closes over beside parameters, as if `tensor` and `sequence` did not
    share it out; a compiler may keep less, and gradients grow as it is given up. On top come the arrays of the layer that is
    computed, its gathered parameters, and the compiler's copies. Of an adversary the state and gradients count, its loss does not.

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

    given = bare((own, merge(adversary, state.frozen), batch))
    # What has the shape of a parameter is that parameter in the type of the computation, and lies as it does.
    parameters = jax.tree.leaves((state.trainable, state.frozen))
    spread = {leaf.shape: leaf.sharding.shard_shape(leaf.shape) for leaf in parameters}
    counted_flops = flops(jax.jit(jax.grad(loss)).trace(*given).jaxpr) * parts * stage.optimizer.accumulate
    memory = {
        "trained, moments and average": held((state.trainable, state.opt_state, state.ema)),
        "frozen": held(state.frozen),
        "gradients": held(state.trainable),
        "kept for the backward pass": kept(loss, given, spread) / GIB,
    }
    total = sum(memory.values())
    return {
        "program": "estimate",
        "fits": total - memory["gradients"] - memory["kept for the backward pass"] <= chip.memory_gib,
        "flops": counted_flops,
        "flops_per_chip": counted_flops / devices,
        "about_gib": total,
        "memory_gib": memory,
        "memory_of_chip_gib": chip.memory_gib,
        "mesh": dict(mesh.shape),
        "batch": stage.batch_size,
    }


def sampled(config: ConfigDict, devices: int, sizes: dict[str, int], chip: Chip) -> dict[str, Any]:
    """Parameters of a chip in GiB, which alone say whether it `fits`, and operations for one portrait in a long video.

    Operations: of the portrait, once; of a frame, of its solver steps (guidance, and what windows overlap, included) and of its
    decoder (for continued clips both together); and what a frame would need more if nothing of the portrait were kept from one
    solver step to the next. What is encoded before is not counted: drivers, prompts, the face that a recogniser sees.

    Raises:
        ConfigError: for a task that does not sample.
    """
    alone = make_mesh(data=1, devices=jax.devices()[:1])
    made = program("sample", config, alone, 1)
    system: Any = systems.build(config)
    params, mesh = jax.eval_shape(system.init, jax.random.key(0)), described_mesh(devices, **sizes)
    animator = Animator(system, {})
    plan, size = animator.plan(LONG), int(animator.settings["windows_per_chunk"])
    if isinstance(plan, Tiles):
        windows, calls = len(plan.index), sum(1 for group in range(plan.count) for _ in plan.batches(group))
    else:
        windows, calls = plan.count, plan.count if isinstance(plan, Clips) else plan.count / min(size, plan.count)
    decodes = isinstance(plan, Clips)
    person = flops(jax.jit(system.encode_portrait).trace(params, u8(1, *frame_size(system), 3)).jaxpr)
    return {
        "program": "sampling estimate",
        "fits": (parameters := held(jax.tree.map(ONE_DEVICE.put, params, shardings(params, mesh)))) <= chip.memory_gib,
        "parameters_gib": parameters,
        "memory_of_chip_gib": chip.memory_gib,
        "mesh": dict(mesh.shape),
        "solver_steps": animator.solver.steps,
        "flops": {
            "portrait, once": person,
            f"solver steps{' and decoder' * decodes}, a frame": flops(made.traced.jaxpr) * made.steps * calls / LONG,
            **({} if decodes else {"decoder, a frame": decoded(system, params, plan)}),
            "portrait at every solver step, a frame": person * animator.solver.steps * windows / LONG,
        },
    }


def decoded(system: Any, params: PyTree, plan: Any) -> float:
    """Operations of the decoder for a frame, of as many as it sees together."""
    group = (system.sampling.decode_chunk or plan.length) if isinstance(plan, Tiles) else plan.stride
    return flops(jax.jit(system.decode).trace(params, f32(1, group, *system.latent_shape())).jaxpr) / group


def kept(loss: Callable[..., Any], given: tuple, spread: dict[tuple[int, ...], tuple[int, ...]]) -> int:
    """Bytes that the pullback of `loss` by the first of `given` closes over beside all of these.

    Args:
        given: shapes of the arguments.
        spread: shapes of which a device holds a part → the shape of the part.
    """

    def pullback(own: PyTree, *rest: PyTree) -> PyTree:
        return jax.vjp(lambda own: loss(own, *rest), own)[1]

    more = counted(jax.eval_shape(pullback, *given)) - counted(given)
    return sum(n * math.prod(spread.get(shape, shape)) * dtype.itemsize for (shape, dtype), n in more.items())


def bare(tree: PyTree) -> PyTree:
    """Shapes that lie nowhere."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def counted(tree: PyTree) -> Counter:
    """How many arrays there are of each shape and type."""
    return Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))
