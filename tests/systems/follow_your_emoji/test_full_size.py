"""The release at its published size: its parameters, and the samplers lowered from shapes for eight devices, nothing computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import follow_your_emoji
from portrait_jax.animation import Animator, joint
from portrait_jax.interchange import layout_named
from portrait_jax.long_video.overlap import plan_windows
from portrait_jax.long_video.plan import Plan
from portrait_jax.long_video.progressive import Gaps
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


class Placed:
    """A system's parameters and a portrait's conditioning as shapes on a mesh of 2 × 4 devices."""

    def __init__(self, system: FollowYourEmoji, shapes) -> None:
        self.system, self.mesh = system, make_mesh(data=2, fsdp=4)
        self.params = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            shardings(shapes, self.mesh),
        )
        portrait = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
        self.still = self.whole(jax.eval_shape(system.encode_portrait, shapes, portrait))

    def whole(self, tree):
        """The shapes of a tree, not spread over devices."""
        place = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=place), tree)

    def lowered_chunk(self, animator: Animator, plan: Plan, size: int):
        """The program that samples the first `size` units of a plan: the whole scan over the solver's steps."""
        frames = len(plan.source_frames(0, size))
        control = jax.ShapeDtypeStruct((1, frames, SIZE, SIZE, 3), jnp.uint8)
        branches = jax.eval_shape(self.system.encode_driving, self.params, self.still, {"control": control})
        run = plan.sampler(self.system.denoise, size, solver=animator.solver, guidance=animator.rule)
        carry = jax.eval_shape(lambda: plan.blank(animator.solver, (1, *self.system.latent_shape())))
        told = jax.tree.map(np.asarray, plan.arguments(0, size))
        return run.lower(self.params, *map(self.whole, (branches, carry, jax.eval_shape(jax.random.key, 0), *told)))


@pytest.fixture(scope="module")
def placed(system, shapes) -> Placed:
    return Placed(system, shapes)


def spread_over_eight(lowered) -> bool:
    return "num_partitions = 8" in lowered.as_text()[:2000]


@pytest.mark.slow
def test_the_released_sampler_lowers_on_eight_devices(system, placed):
    """One window of 24 frames in one solver step, guider and both guidance branches included: what every step calls."""
    whole = placed.whole
    animator = Animator(system, {})
    assert animator.plan(FRAMES).index.shape == (1, FRAMES) and animator.solver.steps == 30
    predict = joint.window_prediction(system, animator.solver, animator.rule)
    control = jax.ShapeDtypeStruct((1, FRAMES, SIZE, SIZE, 3), jnp.uint8)
    latents = jax.ShapeDtypeStruct((1, FRAMES, *system.latent_shape()), jnp.float32)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = predict.lower(placed.params, placed.still, {"control": whole(control)}, whole(latents), whole(step))
    assert lowered.out_info.shape == latents.shape and spread_over_eight(lowered)


@pytest.mark.slow
def test_the_overlapped_sampler_lowers_on_eight_devices(system, placed):
    """Two windows: a scan around a scan."""
    animator = Animator(system, {}, length=16, overlap=4)
    lowered = placed.lowered_chunk(animator, plan_windows(100, 16, 4), 2)
    _, latents = lowered.out_info
    assert latents.shape == (2, 1, 16, *system.latent_shape()) and spread_over_eight(lowered)


@pytest.mark.slow
def test_the_papers_progressive_sampler_lowers_on_eight_devices():
    """Q-Former, masked latents, and clips of three levels, enough for two minutes: the carry is one clip of each."""
    config = follow_your_emoji.get_config("stage2")
    config.compute_dtype = "bfloat16"
    system = FollowYourEmoji.from_config(config)
    animator, placed = Animator(system, {}), Placed(system, jax.eval_shape(system.init, jax.random.key(0)))
    plan = animator.plan(3000)
    assert isinstance(plan, Gaps) and plan.length == 16
    assert placed.params["denoiser"]["conv_in"]["kernel"].shape[2] == 9
    lowered = placed.lowered_chunk(animator, plan, 1)
    carry, latents = lowered.out_info
    assert carry["clips"].shape == (3, 1, 16, *system.latent_shape())
    assert latents.shape == (1, 1, 16, *system.latent_shape()) and spread_over_eight(lowered)


@pytest.mark.slow
def test_encoders_and_decoder_of_the_release_lower_on_eight_devices(system, placed):
    """What runs once a portrait, and once a frame after the last step."""
    portrait = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
    latents = jax.ShapeDtypeStruct((1, FRAMES, *system.latent_shape()), jnp.float32)
    encoded = jax.jit(system.encode_portrait).lower(placed.params, placed.whole(portrait))
    decoded = jax.jit(system.decode).lower(placed.params, placed.whole(latents))
    assert decoded.out_info.shape == (1, FRAMES, SIZE, SIZE, 3)
    assert spread_over_eight(encoded) and spread_over_eight(decoded)
