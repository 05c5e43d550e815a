"""Protects X-NeMo's training at published size: numbers of the paper, sources that fit, and steps and sampler that lower.

What needs the shapes of all parameters is slow.
"""

from __future__ import annotations

import functools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import xnemo
from data.pipeline import DataConfig, check_kind
from launch.compiling import programs
from portrait_jax.encoders.vgg import VGG19_TORCHVISION, VGG_FACE
from portrait_jax.errors import ConfigError
from portrait_jax.interchange.layouts import layout_named
from portrait_jax.settings import from_mapping
from portrait_jax.sharding.mesh import batch_sharding, make_mesh
from portrait_jax.sharding.rules import shardings
from portrait_jax.systems.xnemo import XNemo
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.params import fitted, with_names
from portrait_jax.training.state import flatten, matches, partition, unflatten
from portrait_jax.training.step import make_train_step

STAGES = ("stage1", "stage2", "stage3")
PUBLISHED = {
    "denoiser": ("sd15_unet", "animatediff_v2"),
    "reference": ("sd15_unet",),
    "autoencoder": ("sd15_vae",),
    "image_encoder": ("clip_vision_vit_l",),
}
"""Sub-network → layouts of which `launch.convert` makes its source, as the config's docstring says."""


@functools.cache
def system(stage: str) -> XNemo:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # No perceptual networks are named.
        return XNemo.from_config(xnemo.get_config(stage))


@functools.cache
def shapes(stage: str):
    return jax.eval_shape(functools.partial(system(stage).init, stage=stage), jax.random.key(0))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_the_papers_numbers_and_data_that_fit(stage):
    config = xnemo.get_config(stage)
    data = from_mapping(DataConfig, config.data)
    check_kind(data, XNemo.from_config(config).batch_keys)
    assert data.size == 512 and config.train.lr == 1e-5
    assert (config.train.batch_size, config.train.frames) == ((16, 24) if stage == "stage3" else (64, 1))
    assert config.loss.motion == (stage != "stage1") and config.loss.head == (stage == "stage2")
    assert config.loss.temporal == (stage == "stage3") and config.loss.mask == 0.3


def test_the_head_has_the_papers_weights_and_says_which_terms_are_off():
    with pytest.warns(UserWarning, match="perceptual loss of vgg19 and vggface is off"):
        head = XNemo.from_config(xnemo.get_config("stage2")).head
    assert head is not None and head.pictures.size == 256
    assert (head.weights.adversarial, head.weights.recon, head.weights.feature_matching) == (1.0, 1.0, 10.0)
    config = xnemo.get_config("stage2")
    # As flags do, which know no keys but those that are there.
    given = {"train.init_from.vgg19": "FILE", "train.init_from.vggface": "FILE", "model.head.vgg19": "torchvision"}
    config.update_from_flattened_dict(given)
    head = XNemo.from_config(config).head
    assert head is not None and (head.weights.vgg19, head.weights.vggface) == (3e-2, 6e-3)
    assert (head.judges["vgg19"], head.judges["vggface"]) == (VGG19_TORCHVISION, VGG_FACE)
    config.model.head.vgg19 = "torch"
    with pytest.raises(ConfigError, match="did you mean 'torchvision'"):
        XNemo.from_config(config)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_what_the_paper_says(stage):
    trainable = flatten(partition(shapes(stage), system(stage).stages[stage].patterns)[0])
    subnets = {name.split("/")[0] for name in trainable}
    expected = {
        "stage1": {"denoiser", "reference"},
        "stage2": {
            "denoiser",
            "reference",
            "motion_encoder",
            "appearance_encoder",
            "gan_generator",
            "gan_discriminator",
        },
        "stage3": {"denoiser"},
    }
    assert subnets == expected[stage]
    assert any("temporal_modules" in name for name in trainable) == (stage == "stage3")
    assert any("motion_modules" in name for name in trainable) == (stage == "stage2")


@pytest.mark.slow
@pytest.mark.parametrize("subnet", PUBLISHED)
def test_imports_of_the_published_layouts_fit_the_first_stage(subnet):
    train, expected = xnemo.get_config("stage1").train, shapes("stage1")
    assert dict(train.init_from) == {name: f"pretrained/{name}" for name in PUBLISHED}
    found = {}
    for layout in PUBLISHED[subnet]:
        (part,) = layout_named(layout).parts
        found |= {f"{subnet}/{path}": leaf for path, leaf in flatten(part.published()).items()}
    renamed = with_names(unflatten(found), dict(train.rename))
    have = flatten(fitted(renamed, {subnet: expected[subnet]}, train.allow_unused, ()))
    want = flatten({subnet: expected[subnet]})
    assert have.keys() <= want.keys()
    assert all(have[name].shape == want[name].shape for name in have)
    assert all(matches(name, train.allow_missing) for name in want.keys() - have.keys())


def batch_shapes(frames: int, mesh):
    """A global batch of one example per device; the step's program differs in nothing else."""
    b = mesh.devices.size
    made = {
        "frames": ((b, frames, 512, 512, 3), jnp.uint8),
        "reference": ((b, 512, 512, 3), jnp.uint8),
        "landmarks": ((b, frames, 478, 3), jnp.float32),
        "reference_landmarks": ((b, 478, 3), jnp.float32),
    }
    placed = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for name, (shape, dtype) in made.items()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_training_step_lowers_for_eight_devices(stage):
    """From shapes alone: parameters and optimizer spread over four devices, the batch over all eight."""
    made, mesh = system(stage), make_mesh(data=2, fsdp=4)
    with jax.set_mesh(mesh):
        state = state_shapes(made, stage, mesh)
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(made, stage, make_optimizer(made.stages[stage]), mesh, placed)
        text = step.lower(state, batch_shapes(made.stages[stage].frames, mesh)).as_text()
    assert re.search(r"num_partitions = 8", text)
    spread = [leaf for leaf in jax.tree.leaves(state.trainable) if not leaf.sharding.is_fully_replicated]
    assert spread, "no parameter is spread over devices"


@pytest.mark.slow
def test_the_release_lowers_for_eight_devices():
    """Conditioning, and the animation's own program: one guided step of a joint window of 24 frames, from shapes alone."""
    made, mesh = system("released"), make_mesh(data=1, fsdp=8)
    frames, side = made.sampling.window, made.motion_encoder_config.image_size
    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes("released"),
        shardings(shapes("released"), mesh),
    )

    def told(params, portrait, faces, own):
        return made.encode_driving(
            params, made.encode_portrait(params, portrait), {"faces": faces, "reference_face": own}
        )

    def u8(*shape: int):
        return jax.ShapeDtypeStruct((*shape, 3), np.uint8)

    with jax.set_mesh(mesh):
        lowered = jax.jit(told).lower(params, u8(1, 512, 512), u8(1, frames, side, side), u8(1, side, side))
    assert re.search(r"num_partitions = 8", lowered.as_text()) and lowered.out_info.keys() == {"cond", "uncond"}
    sampler = programs.sampling(xnemo.get_config("released"), mesh)
    step = sampler.traced.lower()
    assert re.search(r"num_partitions = 8", step.as_text())
    assert step.out_info.shape == (1, frames, *made.latent_shape()) and sampler.steps == 35
