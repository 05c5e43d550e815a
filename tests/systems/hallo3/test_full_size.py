"""The release at its published size, from shapes alone: a guided step, and a training step, on eight devices."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import hallo3
from launch.compiling.estimates import bare, kept
from launch.compiling.programs import program
from portrait_jax.sharding.mesh import batch_sharding, make_mesh
from portrait_jax.sharding.rules import shardings
from portrait_jax.systems import build
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.state import merge, partition

pytestmark = pytest.mark.slow


def placed(tree, places, dtype=None):
    """Shapes with their sharding."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place), tree, places
    )


def per_device(tree) -> float:
    """GiB of a placed tree on each device."""
    return (
        sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        / 2**30
    )


def test_a_guided_step_with_one_memory_lowers_with_tensor_and_sequence_parallelism():
    config = hallo3.get_config()
    config.compute_dtype = "bfloat16"
    system, mesh = build(config), make_mesh(data=1, fsdp=1, tensor=4, sequence=2)
    tree = jax.eval_shape(system.init, jax.random.key(0))
    params = placed(tree, shardings(tree, mesh), jnp.bfloat16)
    whole = NamedSharding(mesh, PartitionSpec())
    image = jax.ShapeDtypeStruct((1, 480, 720, 3), jnp.uint8, sharding=whole)
    windows = jax.ShapeDtypeStruct((1, 49, 5, 12, 768), jnp.float32, sharding=whole)
    person = jax.eval_shape(system.encode_portrait, params, image)
    assert person.memory[0].shape == (42, 1, 1350, 48, 64) and person.memory[0].dtype == jnp.bfloat16
    latents = jax.ShapeDtypeStruct((1, *system.latent_grid, 16), jnp.float32, sharding=whole)

    def step(params, person, audio, known, x):
        branches = system.encode_driving(params, person, {"audio": audio, "known": known})
        return [system.denoise(params, x, jnp.full(1, 999), branch) for branch in branches.values()]

    with jax.set_mesh(mesh):
        lowered = jax.jit(step).lower(params, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=whole), person), windows, latents, latents)  # fmt: skip
    text = lowered.as_text()
    assert "num_partitions = 8" in text[:2000] and "sharding_constraint" in text
    networks = {name: params[name] for name in ("denoiser", "reference", "audio_projection", "face_projection")}
    # What docs/hallo3.md says.
    assert (per_device(networks), per_device(params)) == pytest.approx((7.0, 10.1), abs=0.06)


def test_the_whole_sampler_of_a_clip_lowers_with_tensor_and_sequence_parallelism():
    """Fifty guided steps, the decoder, and the frames that the next clip goes on from: the program that `launch.animate` runs."""
    config = hallo3.get_config()
    config.compute_dtype = "bfloat16"
    system, mesh = build(config), make_mesh(data=1, fsdp=1, tensor=4, sequence=2)
    tree = jax.eval_shape(system.init, jax.random.key(0))
    params = placed(tree, shardings(tree, mesh), jnp.bfloat16)
    whole = NamedSharding(mesh, PartitionSpec())

    def given(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree)

    image = given(jax.ShapeDtypeStruct((1, 480, 480, 3), jnp.uint8))
    person = given(jax.eval_shape(system.encode_portrait, params, image))
    windows = given(jax.ShapeDtypeStruct((1, 1, 49, 5, 12, 768), jnp.float32))
    carry = given(jax.ShapeDtypeStruct((1, 2, 480, 720, 3), jnp.float32))
    key = jax.eval_shape(jax.random.key, 0)
    with jax.set_mesh(mesh):
        lowered = jax.jit(system.sample_clips).lower(params, person, image, windows, key, carry, np.int32(0))
    held, video = lowered.out_info
    assert held.shape == carry.shape and video.shape == (1, 47, 480, 720, 3)
    text = lowered.as_text()
    assert "num_partitions = 8" in text[:2000] and "sharding_constraint" in text


def training(stage: str, clips: int, mesh):
    """A stage in bfloat16: system, parameters that train, those that do not, and a batch, all placed."""
    config = hallo3.get_config(stage)
    config.compute_dtype = "bfloat16"
    system = build(config)
    tree = jax.eval_shape(system.init, jax.random.key(0))
    params = placed(tree, shardings(tree, mesh), jnp.bfloat16)
    shapes = {
        "frames": ((clips, 49, 480, 480, 3), jnp.uint8),
        "reference": ((clips, 480, 480, 3), jnp.uint8),
        "face_mask": ((clips, 480, 480), jnp.float32),
        "face": ((clips, 112, 112, 3), jnp.uint8),
        "text": ((clips, 226), jnp.int32),
        "audio": ((clips, (49 + 2 * 25) * 640), jnp.float32),
    }
    keys = (*system.batch_keys, "text")
    batch = {name: jax.ShapeDtypeStruct(*shapes[name], sharding=batch_sharding(mesh)) for name in keys}
    return system, *partition(params, system.stages[stage].trainable), batch


@pytest.mark.parametrize("mesh", [{"data": 1, "fsdp": 8}, {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}], ids=str)
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_trainers_step_lowers_by_the_mesh_alone(stage, mesh):
    """Prompts, optimizer, clipping and average included: what `launch.train` compiles."""
    config = hallo3.get_config(stage)
    config.compute_dtype, config.train.batch_size, config.data.tokenizer = "bfloat16", 8, "T5"
    made = program("train", config, make_mesh(**mesh), 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(made.parameters["trained"])} == {jnp.dtype(jnp.float32)}
    text = made.traced.lower().as_text()
    assert "num_partitions = 8" in text[:2000] and "sharding_constraint" in text


@pytest.mark.parametrize(("stage", "limit"), [("stage1", 6.5), ("stage2", 5.8)])
def test_the_backward_pass_keeps_of_a_clip_what_the_docs_say(stage, limit):
    """GiB beside parameters: what a pullback closes over."""
    system, trained, frozen, batch = training(stage, 1, make_mesh(data=1, devices=jax.devices()[:1]))

    def loss(trained, frozen, batch):
        return system.loss(merge(trained, frozen), batch, jax.random.key(0), stage)[0]

    assert kept(loss, bare((trained, frozen, batch)), {}) / 2**30 == pytest.approx(limit, abs=0.06)


@pytest.mark.parametrize(("stage", "limits"), [("stage1", (3.1, 7.9)), ("stage2", (4.1, 4.2))])
def test_the_trainers_state_takes_what_the_docs_say(stage, limits):
    """GiB per device of what is frozen, and of what trains with its two moments and its average; gradients come on top."""
    system, mesh = build(hallo3.get_config(stage)), make_mesh(data=1, fsdp=8)
    state = state_shapes(system, stage, mesh)
    sizes = per_device(state.frozen), per_device((state.trainable, state.opt_state, state.ema))
    assert sizes == pytest.approx(limits, abs=0.06)
