"""Protects: the config of the release has the published sizes and the release's numbers, and names what does not fit."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hunyuan_portrait
from portrait_jax.adapters.identity import IdentityAdapterConfig
from portrait_jax.adapters.landmark_guider import LandmarkGuiderConfig
from portrait_jax.adapters.motion_memory import MotionMemoryConfig
from portrait_jax.autoencoders import KLConfig
from portrait_jax.backbones.svd_unet import SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders.dinov2 import DINOv2Config
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE
from portrait_jax.errors import ConfigError
from portrait_jax.interchange import layout_named
from portrait_jax.sharding.mesh import batch_sharding, make_mesh
from portrait_jax.sharding.rules import shardings
from portrait_jax.systems import build
from portrait_jax.systems.system import guidance_of
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.params import read_sources
from portrait_jax.training.state import flatten, matches
from portrait_jax.training.step import make_train_step
from tests.weights import shapes


def test_the_release_has_the_sizes_of_the_published_layout():
    """The layout is compared with the manifest at the classes' defaults (`tests/interchange/test_tables.py`)."""
    system = build(hunyuan_portrait.get_config())
    assert system.denoiser_config == SVDUNetConfig(over_time="mean")
    assert system.image_encoder_config == DINOv2Config(plain_offset=0.1)
    assert system.identity_config == IdentityAdapterConfig()
    assert (system.expression_config, system.head_pose_config) == (EXPRESSION, HEAD_POSE)
    assert system.memory_config == MotionMemoryConfig()
    assert system.guider_config == LandmarkGuiderConfig()
    assert system.autoencoder_config == KLConfig()
    assert system.latent_shape() == (64, 64, 4)


def test_the_release_takes_the_original_scripts_steps():
    system = build(hunyuan_portrait.get_config())
    chosen, rule = system.sampling, guidance_of(system.sampling)
    solver = system.solver(chosen.steps)
    np.testing.assert_allclose(solver.grid.sigma[[0, -1]] / solver.grid.alpha[[0, -1]], [700, 0.002], rtol=1e-6)
    np.testing.assert_allclose(solver.timesteps[[0, -1]], [1.63777, -1.55365], atol=1e-4)
    assert (chosen.window, chosen.overlap, chosen.shift, chosen.ends, chosen.decode_chunk) == (25, 3, 3, 15, 8)
    assert rule.branches == ("uncond", "appearance", "cond")
    combined = rule.combine({name: jnp.full((1, 1, 1, 1, 1), value) for name, value in
                                        (("uncond", 1.0), ("appearance", 2.0), ("cond", 5.0))})  # fmt: skip
    assert combined.item() == 1 + 2 * 1 + 2 * 3


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("motion_memory", "out", 1024, "width of motion tokens must be equal, not 1024 and 1030"),
        ("guider", "channels", (16, 32), "strides of guider and autoencoder must be equal, not 2 and 8"),
        ("portrait", "identity_range", "pm", "did you mean 'pm1'"),
        ("identity", "query", "patch", "did you mean 'patches'"),
    ],
)
def test_sizes_that_do_not_fit_are_named(section, key, value, message):
    config = hunyuan_portrait.get_config()
    with config.unlocked():
        config.model[section][key] = value
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'released'"):
        hunyuan_portrait.get_config("release")


def test_training_leaves_frozen_what_the_paper_freezes():
    stage = build(hunyuan_portrait.get_config("train")).stages["train"]
    for frozen in (
        "autoencoder/encoder/conv_in/kernel", "image_encoder/blocks_3/attn/q_proj/kernel", "image_encoder/cls_token",
        "face_recogniser/conv1/kernel", "expression/fc/kernel", "head_pose/fc/kernel",
        "image_encoder/blocks_3/adapter/branch1/bn/running_mean",
    ):  # fmt: skip
        assert not matches(frozen, stage.trainable)
    for trained in (
        "image_encoder/blocks_3/adapter/D_fc1/kernel",
        "denoiser/conv_in/kernel",
        "motion_memory/connector/latents",
    ):
        assert matches(trained, stage.trainable)
    chosen = stage.optimizer
    assert (chosen.name, chosen.lr, chosen.clip_norm, chosen.weight_decay) == ("adamw", 1e-5, 0.99, 0.01)


def test_ablations_leave_out_one_part_each():
    whole = build(hunyuan_portrait.get_config("train"))
    parts = ("memory_config", "identity_config", "portrait", "denoiser_config", "guider_config")
    for name in hunyuan_portrait.ABLATIONS:
        one = build(hunyuan_portrait.get_config(name))
        assert sum(getattr(one, part) != getattr(whole, part) for part in parts) == 1


def test_the_demo_starts_from_the_embedded_denoisers_half_over_space():
    """Of shapes alone: every leaf of the embedded model that means something here is taken, the halves over time begin anew."""
    system = build(hunyuan_portrait.get_config("demo_attention"))
    stage, expected = system.stages["demo_attention"], jax.eval_shape(system.init, jax.random.key(0))
    sources = {name: stage.init_from[name] for name in ("denoiser", "teacher")}
    found = read_sources(expected, sources, stage.allow_missing, allow_unused=stage.allow_unused, rename=stage.rename)
    assert flatten(found["teacher"]).keys() == flatten(expected["teacher"]).keys()
    taken, wanted = flatten(found["denoiser"]), flatten(expected["denoiser"])
    fresh = {name for name in wanted if name not in taken}
    assert all(re.search("temporal|time_mixer|time_pos_embed|add_embedding|processor", name) for name in fresh)
    assert "down_blocks_0/resnets_0/spatial_res_block/conv1/kernel" in taken
    assert "mid_block/attentions_0/transformer_blocks_0/attn1/to_q/kernel" in taken


def test_demo_stages_follow_each_other_and_the_last_one_animates():
    names = ("demo_motion", "demo_attention", "demo_train", "demo")
    motion, taught, first, last = (build(hunyuan_portrait.get_config(name)) for name in names)
    assert taught.teacher and not any(each.teacher for each in (first, last))
    assert "control" in taught.batch_keys and "control" not in first.batch_keys
    assert (motion.expression_config, motion.head_pose_config) == (first.expression_config, first.head_pose_config)
    assert motion.face_size == first.face_size and first.denoiser_config == taught.denoiser_config
    assert last.denoiser_config == first.denoiser_config and last.image_size == 128
    trainable = first.stages["demo_train"].trainable
    assert not matches("head_pose/fc/kernel", trainable) and not matches("expression/fc/kernel", trainable)
    assert first.portrait.motion_start == "silent" and not first.portrait.head_pose
    assert motion.memory_config == first.memory_config and matches("motion_memory/connector/latents", trainable)
    assert not matches("face_recogniser/bn1/running_mean", trainable)


def batch_shapes(frames: int, mesh):
    """A global batch of one clip per device."""
    b, u8 = mesh.devices.size, jnp.uint8
    shapes = {
        "frames": ((b, frames, 512, 512, 3), u8),
        "reference": ((b, 512, 512, 3), u8),
        "landmarks": ((b, frames, 478, 3), jnp.float32),
    }
    placed = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for name, (shape, dtype) in shapes.items()}


@pytest.mark.slow
def test_the_training_step_lowers_for_eight_devices():
    """From shapes alone: parameters and optimizer spread over four devices, the batch over all eight."""
    system, mesh = build(hunyuan_portrait.get_config("train")), make_mesh(data=2, fsdp=4)
    with jax.set_mesh(mesh):
        state = state_shapes(system, "train", mesh)
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(system, "train", make_optimizer(system.stages["train"]), mesh, placed)
        text = step.lower(state, batch_shapes(system.stages["train"].frames, mesh)).as_text()
    assert re.search(r"num_partitions = 8", text)
    spread = [leaf for leaf in jax.tree.leaves(state.trainable["denoiser"]) if not leaf.sharding.is_fully_replicated]
    assert spread, "no parameter is spread over devices"


@pytest.mark.slow
def test_the_sampler_lowers_for_eight_devices():
    """From shapes alone: one video of 60 frames on the ring, parameters spread over eight devices."""
    system, mesh = build(hunyuan_portrait.get_config()), make_mesh(data=1, fsdp=8)
    frames, size = 60, system.latent_shape()

    def sds(*shape: int):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    portrait = Conditioning(image_tokens=sds(1, 64, 1024), portrait=sds(1, *size), ids=sds(1, 3), start=sds(1, *size))
    with jax.set_mesh(mesh):
        params = jax.eval_shape(system.init, jax.random.key(0))
        params = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            params, shardings(params, mesh),
        )  # fmt: skip

        def run(params, portrait, motion, spatial, noise):
            return system.sample_from(params, system.branches(portrait, motion, spatial), noise)

        arguments = sds(1, frames, 64, 1024), sds(1, frames, 64, 64, 320), sds(1, frames, *size)
        text = jax.jit(run).lower(params, portrait, *arguments).as_text()
    assert re.search(r"num_partitions = 8", text)


@pytest.mark.slow
def test_the_releases_parameters_are_those_of_its_layout_and_of_the_recogniser():
    """Shapes only."""
    published: dict = {}
    for name in ("hunyuan_portrait", "arcface_iresnet100"):
        for part in layout_named(name).parts:
            published |= {f"{part.subnet}/{link.path}": link.shape for link in part.links(part.published())}
    tree = jax.eval_shape(build(hunyuan_portrait.get_config()).init, jax.random.key(0))
    assert shapes(tree) == published
