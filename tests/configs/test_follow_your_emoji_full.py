"""Protects training at full size: sizes of the release, sources that fit, and steps that lower for eight devices.

What needs the shapes of all parameters is slow.
"""

from __future__ import annotations

import json
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import follow_your_emoji
from data.pipeline import DataConfig
from portrait_jax.interchange.layouts import layout_named
from portrait_jax.settings import from_mapping
from portrait_jax.sharding.mesh import batch_sharding, make_mesh
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.training.loop import state_shapes
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.params import fitted
from portrait_jax.training.state import flatten, matches, partition, unflatten
from portrait_jax.training.step import make_train_step
from portrait_jax.training.task import LoopOptions

STAGES = ("stage1", "stage2", "released_stage1", "released_stage2")


class Described:
    """A stage's config, its system, and every parameter's shape."""

    def __init__(self, stage: str) -> None:
        self.config = follow_your_emoji.get_config(stage)
        self.system = FollowYourEmoji.from_config(self.config)

    @property
    def shapes(self):
        return shapes(self.config.model.to_json())


@cache
def shapes(model: str):
    """Of every parameter; traced once for stages with equal models."""
    config = follow_your_emoji.get_config("stage1")
    config.model = ConfigDict(json.loads(model))
    return jax.eval_shape(FollowYourEmoji.from_config(config).init, jax.random.key(0))


@pytest.fixture(scope="module")
def full():
    return {stage: Described(stage) for stage in STAGES}


def sizes(shapes) -> dict[str, int]:
    return {name: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}


@pytest.mark.slow
def test_the_released_form_has_the_releases_parameters(full):
    found = sizes(full["released_stage2"].shapes)
    # Counted from the released classes: 1.313 and 0.858 billion with position tables and an unused projection, 1.09 million.
    assert found["denoiser"] == pytest.approx(1.313e9, rel=2e-3)
    assert found["reference"] == pytest.approx(0.858e9, rel=5e-3)
    assert found["guider"] == pytest.approx(1.09e6, rel=5e-3)


@pytest.mark.slow
def test_the_paper_adds_a_resampler_and_in_the_second_stage_five_input_channels(full):
    first, second, released = (full[stage].shapes for stage in ("stage1", "stage2", "released_stage2"))
    assert first["image_prompt"]["latents"].shape == (1, 16, 768)
    layers = [name for name in first["image_prompt"] if re.fullmatch(r"layers_\d+_0", name)]
    assert len(layers) == 4
    channels = [tree["denoiser"]["conv_in"]["kernel"].shape[2] for tree in (released, first, second)]
    assert channels == [4, 4, 9]
    assert not any("clip_fc" in name for name in flatten(first["denoiser"])) and "clip_fc" in released["denoiser"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_the_papers_numbers_and_sections_that_fit(full, stage):
    config, system = full[stage].config, full[stage].system
    data = from_mapping(DataConfig, config.data)
    assert (data.size, data.drawing, data.latent_factor) == (512, "released", system.autoencoder_config.stride)
    assert system.image_size == 512 and system.latent_shape() == (64, 64, 4)
    temporal = stage.endswith("stage2")
    assert (config.train.steps, config.train.frames) == ((10_000, 16) if temporal else (30_000, 1))
    assert config.train.batch_size == 32 and system.loss_config.temporal == temporal
    assert LoopOptions.from_config(config.train).checkpoint_every > 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_what_the_paper_says(full, stage):
    temporal = stage.endswith("stage2")
    trainable = flatten(partition(full[stage].shapes, full[stage].system.stages[stage].trainable)[0])
    expected = {"denoiser"} if temporal else {"denoiser", "reference", "guider"}
    assert {name.split("/")[0] for name in trainable} == expected | ({"image_prompt"} if stage == "stage1" else set())
    assert any("motion_modules" in name for name in trainable) == temporal


PUBLISHED = {
    "denoiser": ("sd15_unet", "animatediff_v2"),
    "reference": ("sd15_unet",),
    "autoencoder": ("sd15_vae",),
    "image_encoder": ("clip_vision_vit_l",),
}
"""Sub-network → layouts of which `launch.convert` makes its source, as the config's docstring says."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "released_stage1"])
@pytest.mark.parametrize("subnet", PUBLISHED)
def test_imports_of_the_published_layouts_fit_the_first_stage(full, stage, subnet):
    config, shapes = full[stage].config, full[stage].shapes
    assert dict(config.train.init_from) == {name: f"pretrained/{name}" for name in PUBLISHED}
    found = {}
    for layout in PUBLISHED[subnet]:
        (part,) = layout_named(layout).parts
        found |= {f"{subnet}/{path}": leaf for path, leaf in flatten(part.published()).items()}
    have = flatten(fitted(unflatten(found), {subnet: shapes[subnet]}, config.train.allow_unused, ()))
    want = flatten({subnet: shapes[subnet]})
    assert all(have[name].shape == want[name].shape for name in have.keys() & want.keys())
    assert have.keys() <= want.keys()
    assert all(matches(name, config.train.allow_missing) for name in want.keys() - have.keys())


@pytest.mark.slow
def test_each_second_stage_goes_on_from_its_first_and_widens_what_is_wider(full):
    for first, second in (("stage1", "stage2"), ("released_stage1", "released_stage2")):
        train = full[second].config.train
        assert dict(train.init_from) == {"*": f"{{workdir}}/{first}"}
        narrow, wide = (flatten(full[stage].shapes) for stage in (first, second))
        assert narrow.keys() == wide.keys()
        changed = {name for name in wide if narrow[name].shape != wide[name].shape}
        assert changed == set(train.get("fit_inputs", ()))


def batch_shapes(frames: int, mesh):
    """A global batch of two examples per device; the step's program differs in nothing else."""
    b, u8, f32 = 2 * mesh.devices.size, jnp.uint8, jnp.float32
    shapes = {
        "frames": ((b, frames, 512, 512, 3), u8),
        "reference": ((b, 512, 512, 3), u8),
        "control": ((b, frames, 512, 512, 3), u8),
        "expression_mask": ((b, frames, 64, 64, 1), f32),
        "oval_mask": ((b, frames, 64, 64, 1), f32),
    }
    placed = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for name, (shape, dtype) in shapes.items()}


def bytes_per_device(state) -> int:
    """What the state's leaves take on one device of the mesh."""
    leaves = jax.tree.leaves(state)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_training_step_lowers_for_eight_devices(full, stage):
    """From shapes alone: parameters and optimizer spread over four devices, the batch over all eight."""
    system, mesh = full[stage].system, make_mesh(data=2, fsdp=4)
    with jax.set_mesh(mesh):
        state = state_shapes(system, stage, mesh)
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(system, stage, make_optimizer(system.stages[stage]), mesh, placed)
        text = step.lower(state, batch_shapes(system.stages[stage].frames, mesh)).as_text()
    assert re.search(r"num_partitions = 8", text)
    kernel = state.frozen["autoencoder"] if stage.endswith("stage2") else state.trainable["denoiser"]
    spread = [leaf for leaf in jax.tree.leaves(kernel) if not leaf.sharding.is_fully_replicated]
    assert spread, "no parameter is spread over devices"
    print(f"{stage}: {bytes_per_device(state) / 1e9:.1f} GB of parameters and optimizer state on each device")
