"""Protects the ablations of the paper's table 2: each differs from the whole in what its name says, and trains."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

from configs import follow_your_emoji
from configs.follow_your_emoji_ablations import ABLATIONS, first_stage
from data.pipeline import make_loader
from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.systems.follow_your_emoji import MASKS, FollowYourEmoji
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten
from portrait_jax.training.step import make_train_step
from tests import tiny

NAMES = tuple(ABLATIONS)
STAGE = "step"
"""One name for all, so that ablations with equal programs share one."""


def tiny_config(name: str):
    """The second stage of an ablation, as small as it can be."""
    config = tiny.get_config(f"ablation_{name}_stage2")
    config.model.denoiser.update({"block_out_channels": (8,), "attention_levels": (True,)})
    config.model.temporal.levels = (0,)
    config.data.update({"identities": 2, "clip_frames": 6, "frame_stride": (1, 1)})
    config.train.update({"batch_size": 1, "frames": 3, "warmup_steps": 0, "ema_decay": 0.0})
    config.stage = STAGE
    return config


def batch_of(name: str):
    config = tiny_config(name)
    system = FollowYourEmoji.from_config(config)
    with make_loader(config.data, global_batch=1, frames=3, needs=system.batch_keys, threads=0) as loader:
        batch = next(loader)
    return {key: batch[key] for key in system.batch_keys}


@cache
def trained(progressive: str):
    """A state before the first step and the jitted step of all ablations that are given frames, or are not.

    Drawings and sampling change no program. A mask that does not count is an empty one
    (tests/systems/test_follow_your_emoji_paper.py), so that two more ablations share the whole system's program.
    """
    system = FollowYourEmoji.from_config(tiny_config("full" if progressive != "none" else "no_progressive"))
    assert tuple(system.loss_config.masks) == MASKS
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    optimizer = make_optimizer(system.stages[STAGE])
    with jax.set_mesh(mesh):
        state = create_state(tiny.make_params(system), system.stages[STAGE], optimizer, jax.random.key(0))
        return mesh, jax.device_get(state), make_train_step(system, STAGE, optimizer, mesh)


@cache
def one_step(name: str):
    """Metrics of one step on the ablation's own batch, and which leaves moved."""
    config = tiny_config(name)
    mesh, state, step = trained(config.model.progressive)
    batch = batch_of(name)
    batch |= {mask: 0 * batch[mask] for mask in MASKS if mask not in config.loss.masks}
    before = flatten(state.trainable)
    with jax.set_mesh(mesh):
        after, metrics = step(jax.device_put(state), shard_batch(batch, mesh))
    moved = {leaf for leaf, value in flatten(after.trainable).items() if not np.array_equal(value, before[leaf])}
    return {key: float(value) for key, value in metrics.items()}, moved, set(before)


@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_trains_one_step(name):
    metrics, moved, trainable = one_step(name)
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    assert len(moved) > 0.9 * len(trainable)
    assert all("motion_modules" in leaf or leaf.startswith("denoiser/conv_in") for leaf in moved)
    assert ("denoiser/conv_in/kernel" in moved) == (name != "no_progressive")


def test_each_mask_alone_sees_less_than_both():
    facial = {name: one_step(name)[0]["facial"] for name in ("full", "no_expression_mask", "no_face_mask")}
    assert facial["full"] > facial["no_expression_mask"] > 0 and facial["full"] > facial["no_face_mask"] > 0
    assert facial["no_expression_mask"] != facial["no_face_mask"]


def test_drawings_differ_where_they_should_and_nothing_else_does():
    whole = batch_of("full")
    for name in NAMES:
        batch = batch_of(name)
        differing = {key for key in whole if not np.array_equal(batch[key], whole[key])}
        assert differing == ({"control"} if "drawing" in str(ABLATIONS[name]) else set()), name


@cache
def shapes(progressive: str) -> dict[str, tuple[int, ...]]:
    """Of every leaf; nothing else that ablations change has a part in them."""
    config = follow_your_emoji.get_config("demo")
    config.model.progressive = progressive
    tree = jax.eval_shape(FollowYourEmoji.from_config(config).init, jax.random.key(0))
    return {leaf: value.shape for leaf, value in flatten(tree).items()}


@pytest.mark.parametrize("name", NAMES)
def test_stages_of_an_ablation_fit_together(name):
    first, second, final = (
        follow_your_emoji.get_config(f"ablation_{name}{stage}") for stage in ("_stage1", "_stage2", "")
    )
    assert dict(second.train.init_from)["*"] == f"{{workdir}}/{first_stage(name)}"
    source = follow_your_emoji.get_config(first_stage(name))
    for key in ("drawing_style", "autoencoder", "image_prompt"):
        assert source.model[key] == second.model[key] == first.model[key]
    assert source.model.progressive == "none", "the second stage widens; it can't narrow"
    assert tuple(source.loss.masks) == tuple(second.loss.masks)
    assert second.model.drawing_style == second.data.drawing and first.model.drawing_style == first.data.drawing
    assert (first.loss.temporal, second.loss.temporal) == (False, True)
    final.stage = second.stage
    assert final == second
    narrow, wide = (shapes(each.model.progressive) for each in (source, second))
    changed = {leaf for leaf in wide if wide[leaf] != narrow[leaf]}
    assert changed == set(second.train.fit_inputs)


def test_an_unknown_ablation_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ablation_no_pupils'"):
        follow_your_emoji.get_config("ablation_no_pupil")
