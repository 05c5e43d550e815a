"""Protects animation over a mesh of eight fake devices: the same frames, and work and memory that are really shared out."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.compiling.programs import program
from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.landmarks import drawn
from portrait_jax.errors import ConfigError
from portrait_jax.sharding import rules
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny
from tests.animation import scene

FRAMES = 8
PICTURES = np.random.default_rng(0).integers(0, 256, (60, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)


def make(params=None, **changes) -> Animator:
    config, mesh = tiny.get_config(), changes.pop("mesh", None)
    config.sampling.update({"windows_per_chunk": 1, **changes})
    system = FollowYourEmoji.from_config(config)
    params = jax.device_get(tiny.make_params(system)) if params is None else params
    return Animator(system, params, mesh=mesh and make_mesh(**mesh))


@pytest.fixture(scope="module")
def alone() -> Animator:
    return make()


def run(animator, **options):
    return list(animator.frames(PICTURES[-1], drawn(lambda indices: PICTURES[indices]), FRAMES, seed=3, **options))


def assert_equal(found, expected):
    for (frames, position), (theirs, place) in zip(found, expected, strict=True):
        assert np.abs(frames.astype(int) - theirs).max(initial=0) <= 1
        for one, other in zip(jax.tree.leaves(position.carry), jax.tree.leaves(place.carry), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.fixture(scope="module")
def shared(alone) -> Animator:
    """A device for each guidance branch."""
    return make(alone.params, mesh={"data": 2})


def test_frames_over_a_mesh_are_those_of_one_device_also_after_an_interruption(alone, shared):
    whole = run(alone)
    assert_equal(run(shared), whole)
    assert_equal(run(shared, start=whole[0][1]), whole[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}]
)
def test_so_they_are_where_every_parameter_is_spread(alone, mesh, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)
    assert_equal(run(make(alone.params, mesh=mesh)), run(alone))


def test_a_device_holds_its_part_of_what_is_spread(alone, monkeypatch):
    """Parameters come from the host, so nobody ever had the whole."""
    monkeypatch.setattr(rules, "SMALL", 64)
    shared = make(alone.params, mesh={"data": 1, "fsdp": 4})
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(shared.params))
    kernel = shared._placed["denoiser"]["conv_in"]["kernel"]
    assert {part.data.size * 4 for part in kernel.addressable_shards} == {kernel.size}


@pytest.mark.slow
def test_each_device_denoises_its_own_guidance_branch():
    """A device's operations are half of those that one device alone does: loops are counted once in both."""
    config = tiny.get_config()
    operations = [
        program("sample", config, make_mesh(data=size), 1).traced.lower().compile().cost_analysis()["flops"]
        for size in (1, 2)
    ]
    assert 0.4 < operations[1] / operations[0] < 0.6


@pytest.mark.slow
def test_jointly_denoised_windows_in_batches_lie_over_the_devices(alone):
    """Three windows at once, which with two branches are six items on two devices."""
    plain = make(alone.params, strategy="tiled", solver="ddim")
    shared = make(alone.params, strategy="tiled", solver="ddim", windows_per_batch=3, mesh={"data": 2})
    assert plain.plan(FRAMES).batched == 1 and shared.plan(FRAMES).batched == 3
    assert_equal(run(shared), run(plain))


def test_windows_one_after_another_have_no_batches(alone):
    with pytest.raises(ConfigError, match="windows_per_batch 2 is for windows that are denoised jointly.*'overlap'"):
        make(alone.params, windows_per_batch=2).plan(FRAMES)


def test_frames_to_decode_lie_over_all_devices(alone):
    shared = make(alone.params, mesh={"data": 2, "tensor": 2})
    latents = np.random.default_rng(1).normal(size=(1, 4, *alone.system.latent_shape())).astype(np.float32)
    found = shared._decode(shared._placed, shared.placing.items(latents))
    np.testing.assert_allclose(found, alone._decode(alone._placed, latents), atol=1e-5)
    with jax.set_mesh(shared.mesh):
        compiled = jax.jit(shared.system.decode).lower(shared._placed, shared.placing.items(latents)).compile()
    single = jax.jit(alone.system.decode).lower(alone._placed, latents).compile()
    assert compiled.cost_analysis()["flops"] < 0.3 * single.cost_analysis()["flops"]


def test_of_a_temporal_decoder_each_device_has_a_clip_or_a_group_of_its_own(alone, monkeypatch):
    monkeypatch.setattr(FollowYourEmoji, "temporal_decoder", True)
    shared, shapes = make(alone.params, mesh={"data": 2, "fsdp": 2}), []

    def decode(params, latents):
        shapes.append(latents.shape[:2])
        return jnp.zeros((*latents.shape[:2], tiny.SIZE, tiny.SIZE, 3))

    shared.__dict__["_decode"] = decode
    for clips in (1, 2, 3, 4):
        latents = np.zeros((clips, 6, *alone.system.latent_shape()), np.float32)
        assert shared._decode_all(latents, 3).shape == (clips, 6, tiny.SIZE, tiny.SIZE, 3)
    assert shapes == [(4, 3), (4, 3), (12, 3), (4, 3), (4, 3)]


def test_the_record_names_the_mesh_where_there_is_one(alone, shared, tmp_path):
    scene.fill(tmp_path)
    plain = animate_files(alone, scene.job(tmp_path, "a.mp4"))
    record = animate_files(shared, scene.job(tmp_path, "b.mp4"))
    assert "mesh" not in plain
    assert record["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert json.loads((tmp_path / "b.json").read_text()) == record
