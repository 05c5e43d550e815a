"""The release at its published size: its parameters, and its sampler lowered from shapes for eight devices, nothing computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import follow_your_emoji
from portrait_jax.animation import Animator, joint
from portrait_jax.interchange import layout_named
from portrait_jax.long_video.overlap import window_sampler
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.sharding.rules import shardings
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests.golden import manifest

FRAMES, SIZE = 24, 512


@pytest.fixture(scope="module")
def system() -> FollowYourEmoji:
    config = follow_your_emoji.get_config("released")
    config.compute_dtype = "bfloat16"
    return FollowYourEmoji.from_config(config)


@pytest.fixture(scope="module")
def shapes(system):
    return jax.eval_shape(system.init, jax.random.key(0))


@pytest.mark.slow
def test_the_published_files_fill_the_configs_networks(shapes):
    """Names and shapes: what `launch.convert import` reads is what `launch.animate` asks for, at full size."""
    layout, listed = layout_named("follow_your_emoji"), manifest("follow_your_emoji_manifest.json")
    assert set(shapes) == {part.subnet for part in layout.parts}
    for part, entry in zip(layout.parts, layout.manifest, strict=True):
        published = {name: tuple(shape) for name, (shape, _) in listed[entry].items()}
        wanted = part.stored(shapes[part.subnet])
        assert wanted == {name: published[name] for name in wanted}
        assert all(part.table.ignores(name) for name in published.keys() - wanted.keys())


@pytest.fixture(scope="module")
def placed(system, shapes):
    """(placing of any tree, parameters and a portrait's conditioning as placed shapes) on a mesh of 2 × 4 devices."""
    mesh = make_mesh(data=2, fsdp=4)

    def whole(tree):
        place = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings(shapes, mesh),
    )
    portrait = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
    return whole, params, whole(jax.eval_shape(system.encode_portrait, shapes, portrait))


@pytest.mark.slow
def test_the_released_sampler_lowers_on_eight_devices(system, placed):
    """One window of 24 frames in one solver step, guider and both guidance branches included: what every step calls."""
    whole, params, still = placed
    animator = Animator(system, {})
    assert animator.plan(FRAMES).index.shape == (1, FRAMES) and animator.solver.steps == 30
    predict = joint.window_prediction(system, animator.solver, animator.rule)
    control = jax.ShapeDtypeStruct((1, FRAMES, SIZE, SIZE, 3), jnp.uint8)
    latents = jax.ShapeDtypeStruct((1, FRAMES, *system.latent_shape()), jnp.float32)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = predict.lower(params, still, whole(control), whole(latents), whole(step))
    assert lowered.out_info.shape == latents.shape
    assert "num_partitions = 8" in lowered.as_text()[:2000]


@pytest.mark.slow
def test_the_overlapped_sampler_lowers_on_eight_devices(system, placed):
    """The whole scan over thirty steps of a window."""
    whole, params, still = placed
    animator = Animator(system, {}, length=16, overlap=4, windows_per_chunk=1)
    control = jax.ShapeDtypeStruct((1, 16, SIZE, SIZE, 3), jnp.uint8)
    branches = jax.eval_shape(system.encode_driving, params, still, {"control": control})
    run = window_sampler(system.denoise, solver=animator.solver, guidance=animator.rule, length=16, overlap=4, size=1)
    carry = jax.eval_shape(lambda: {"trajectory": jnp.zeros((30, 1, 4, *system.latent_shape()))})
    key, number = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), jnp.int32)
    lowered = run.lower(params, whole(branches), whole(carry), whole(key), whole(number), whole(number))
    _, latents = lowered.out_info
    assert latents.shape == (1, 1, 16, *system.latent_shape())
