"""The programs of a config, traced from shapes alone: nothing is read, nothing computed, and no device needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding
from ml_collections import ConfigDict

from data.pipeline import make_loader
from portrait_jax import systems
from portrait_jax.animation import Animator, joint
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.long_video.continued import Clips
from portrait_jax.long_video.tiles import Tiles
from portrait_jax.sharding.mesh import batch_sharding, check_batch_size
from portrait_jax.sharding.placing import Placing
from portrait_jax.systems.system import frame_size
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.step import make_train_step
from portrait_jax.typing import PyTree

LONG = 10_000
"""Frames of the video whose windows are sampled: so many that its ends do not count."""


@dataclass(frozen=True)
class Program:
    """What is compiled.

    Attributes:
        traced: see `jax.stages.Traced`; has the jaxpr, and lowers.
        parameters: shapes with shardings, by sub-network.
        examples: clips that one call of it works on.
        steps: how often it runs for these: 1, or a sampler's steps where the program is one of them.
    """

    traced: Any
    parameters: PyTree
    examples: int
    steps: int = 1


def training(config: ConfigDict, mesh: Mesh) -> Program:
    """One optimizer step of the config's stage, donated state included, as `launch.train` compiles it.

    Raises:
        ConfigError: for a stage without training, or a batch that the mesh does not divide.
    """
    if "train" not in config:
        raise ConfigError(f"{config.stage} does not train; choose a training stage, or --program=sample")
    task = systems.build(config)
    stage = task.stages[config.stage]
    check_batch_size(stage.batch_size, stage.optimizer.accumulate, mesh)
    state = state_shapes(task, config.stage, mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(task, config.stage, make_optimizer(stage), mesh, placed)
    batch = batch_shapes(config, stage.batch_size, stage.frames, mesh)
    with jax.set_mesh(mesh):
        traced = step.trace(state, batch)
    return Program(traced, {"trained": state.trainable, "frozen": state.frozen}, stage.batch_size)


def batch_shapes(config: ConfigDict, batch_size: int, frames: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What the data pipeline would give: an example of procedural people, as many times as the batch is large."""
    told = {name: value for name, value in config.data.items() if name not in ("path", "tokenizer", "stylised")}
    with make_loader({**told, "clip_frames": max(frames + 1, 2)}, global_batch=1, frames=frames, threads=0) as loader:
        row = next(loader)
    if config.data.get("tokenizer"):
        row["text"] = np.zeros((1, config.data.get("text_length", 77)), np.int32)
    if config.data.get("stylised"):
        row["driving"] = row["frames"]
    return {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype, sharding=batch_sharding(mesh))
        for name, array in row.items()
    }


def sampling(config: ConfigDict, mesh: Mesh, clips: int = 1) -> Program:
    """A chunk of windows with all solver steps; where windows are denoised jointly, one window in one step; where clips are
    continued, a whole clip with its decoder. It is the very program of `launch.animate`, with or without a mesh.

    Args:
        clips: portraits that are animated together, over the mesh's batch axes.

    Raises:
        ConfigError: for a task that does not sample.
    """
    system: Any = systems.build(config)
    driven_by = getattr(system, "driven_by", None)
    if driven_by not in DRIVING:
        raise ConfigError(f"{config.task} samples nothing that is driven; --program=sample is for systems")
    placing = Placing(mesh) if mesh.size > 1 else Alone(mesh.devices.item())
    params = placing.params(jax.eval_shape(system.init, jax.random.key(0)))
    animator = Animator(system, {})
    plan = animator.plan(LONG)
    kind = next(name for name, fits in KINDS.items() if fits(plan))
    traced, steps = placing.under(SAMPLERS[kind])(animator, plan, params, placing, clips)
    return Program(traced, params, clips, steps)


class Alone(Placing):
    """Shapes on one device, which may be one that is not there."""

    def __init__(self, device: jax.Device) -> None:
        super().__init__()
        # What lies where everything lies by default has no annotation in a run's program, so it must have none here.
        object.__setattr__(self, "place", None if device == jax.devices()[0] else SingleDeviceSharding(device))

    def items(self, tree: PyTree, axis: int | PyTree = 0) -> PyTree:
        """The same place for all."""
        return self.params(tree)

    def put(self, leaf: Any, place: Any) -> Any:
        """One shape there."""
        return super().put(leaf, self.place)


def still(system: Any, params: PyTree, placing: Placing, clips: int) -> PyTree:
    """Shapes of what is told of the portraits."""
    return placing.told(jax.eval_shape(system.encode_portrait, params, u8(clips, *frame_size(system), 3)))


def in_order(animator: Animator, plan: Any, params: PyTree, placing: Placing, clips: int) -> tuple[Any, int]:
    system: Any = animator.system
    size = min(int(animator.settings["windows_per_chunk"]), plan.count)
    driving = placing.items(DRIVING[system.driven_by](system, clips, len(plan.source_frames(0, size))))
    branches = jax.eval_shape(system.encode_driving, params, still(system, params, placing, clips), driving)
    carry = jax.eval_shape(lambda: plan.blank(animator.solver, (clips, *system.latent_shape())))
    run = plan.sampler(
        system.denoise,
        size,
        solver=animator.solver,
        guidance=animator.rule,
        noise_share=system.sampling.noise_share,
        cache=animator.cache,
    )
    key, carry = jax.eval_shape(jax.random.key, 0), placing.items(carry, animator.carry_axes(plan))
    return run.trace(params, placing.told(branches), carry, key, *plan.arguments(0, size)), 1


def jointly(animator: Animator, plan: Any, params: PyTree, placing: Placing, clips: int) -> tuple[Any, int]:
    system: Any = animator.system
    items, length = clips * plan.batched, plan.length
    given = DRIVING[system.driven_by](system, items, length), f32(items, length, *system.latent_shape())
    predict = joint.window_prediction(system, animator.solver, animator.rule, plan.batched)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    traced = predict.trace(params, still(system, params, placing, clips), *placing.items(given), step)
    return traced, animator.solver.steps


def continued(animator: Animator, plan: Any, params: PyTree, placing: Placing, clips: int) -> tuple[Any, int]:
    system: Any = animator.system
    audio = DRIVING[system.driven_by](system, clips, plan.length)["audio"]
    windows = placing.items(jax.ShapeDtypeStruct((1, *audio.shape), audio.dtype), 1)
    carry = f32(*animator.blank(plan, clips).shape)
    image, carry = placing.items((u8(clips, *frame_size(system), 3), carry))
    given = still(system, params, placing, clips), image, windows, jax.eval_shape(jax.random.key, 0), carry
    return jax.jit(system.sample_clips).trace(params, *given, jax.ShapeDtypeStruct((), jnp.int32)), 1


KINDS: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "continued": lambda plan: isinstance(plan, Clips),
        "jointly": lambda plan: isinstance(plan, Tiles),
        "in order": bool,
    }
)
SAMPLERS = MappingProxyType({"continued": continued, "jointly": jointly, "in order": in_order})


def u8(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def squares(system: Any, clips: int, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Crops of the face and of its head, and how much both move."""
    crops = u8(clips, frames, system.face_size, system.face_size, 3)
    level = jax.ShapeDtypeStruct((clips, frames), jnp.int32)
    return {"faces": crops, "heads": crops, "head_level": level, "expression_level": level}


def states(speech: Any, window: int, clips: int, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Hidden states of a speech encoder in a window around each frame."""
    return {"audio": f32(clips, frames, window, speech.layers, speech.hidden)}


DRIVING: Mapping[str, Callable[[Any, int, int], dict[str, jax.ShapeDtypeStruct]]] = MappingProxyType(
    {
        "landmarks": lambda system, clips, frames: {
            "control": u8(clips, frames, system.image_size, system.image_size, 3)
        },
        "faces": lambda system, clips, frames: {
            "faces": u8(clips, frames, system.face_size, system.face_size, 3),
            "reference_face": u8(clips, system.face_size, system.face_size, 3),
        },
        "aligned faces": squares,
        "sound": lambda system, *sizes: states(system.speech_config, system.audio_config.window, *sizes),
        "sound and text": lambda system, *sizes: states(system.audio_encoder_config, system.audio_window, *sizes),
    }
)
"""What drives a system → the arrays that its `encode_driving` reads of so many frames."""


def program(name: str, config: ConfigDict, mesh: Mesh, clips: int) -> Program:
    """`train` or `sample`; raises ConfigError for another name."""
    known: dict[str, Callable[[], Program]] = {
        "train": lambda: training(config, mesh),
        "sample": lambda: sampling(config, mesh, clips),
    }
    if name not in known:
        raise ConfigError(f"--program {name} does not exist{nearest(name, list(known))}")
    return known[name]()
