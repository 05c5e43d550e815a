"""Protects: who learns what in which stage, what each condition does to the prediction, and the loss of section 3.2."""

from __future__ import annotations

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.conditioning import Conditioning, dropped
from portrait_jax.diffusion.schedule import signal_noise
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.training.state import merge, partition
from tests import tiny

WITHOUT_EFFECT = ("k_proj/bias",)
"""Leaves that change nothing: a bias on all keys of an attention shifts its scores alike, and softmax forgets shifts."""


@pytest.fixture(scope="module")
def system() -> FollowYourEmoji:
    return tiny.make_system()


@pytest.fixture(scope="module")
def params(system):
    return tiny.make_params(system)


# Gradients


def gradients(stage: str, params) -> dict[str, np.ndarray]:
    """Of the loss without dropping, by leaf; trainable leaves only."""
    system = tiny.make_system(stage, drop=0.0)
    trainable, frozen = partition(params, system.stages[stage].trainable)

    def loss(trainable, batch, key):
        return system.loss(merge(trainable, frozen), batch, key, stage)[0]

    return tiny.leaves(jax.jit(jax.grad(loss))(trainable, tiny.make_batch(), jax.random.key(1)))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["demo_stage1", "demo_stage2"])
def test_the_loss_reaches_every_trainable_parameter_of_a_stage(stage, params):
    found = {name: float(np.abs(leaf).max()) for name, leaf in gradients(stage, params).items()}
    assert all(np.isfinite(list(found.values())))
    still = {name for name, size in found.items() if size < 1e-8}
    assert {name for name in still if not name.endswith(WITHOUT_EFFECT)} == set()
    subnets = {name.split("/")[0] for name in found}
    assert subnets == ({"denoiser", "reference", "guider", "image_encoder"} if stage == "demo_stage1" else {"denoiser"})


def test_the_first_stage_passes_over_the_motion_modules(system, params):
    """Whatever they hold: otherwise the first stage would learn to work with untrained ones."""
    first = tiny.make_system("demo_stage1")
    loss = jax.jit(partial(first.loss, stage="demo_stage1"))
    other = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "motion_modules" in str(path) else leaf, params
    )
    batch, key = tiny.make_batch(), jax.random.key(0)
    assert loss(params, batch, key)[0] == loss(other, batch, key)[0]


# What the denoiser is told


@pytest.fixture(scope="module")
def told(system, params):
    """Noise, conditionings of both branches and another picture's, and the jitted denoiser (with `use_temporal`)."""
    batch = tiny.make_batch(clips=2, frames=3)

    @jax.jit
    def encode(params, portrait, control):
        return system.encode_driving(params, system.encode_portrait(params, portrait), {"control": control})

    @partial(jax.jit, static_argnames="temporal")
    def predict(params, noisy, conditioning, temporal=True):
        time = jnp.full((2,), 500.0)
        return system.denoiser.apply({"params": params["denoiser"]}, noisy, time, conditioning, use_temporal=temporal)

    encode, predict = partial(encode, params), partial(predict, params)
    branches = encode(batch["reference"], batch["control"])
    noisy = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 8)), jnp.float32)
    other = encode(batch["reference"][::-1], 255 - batch["control"])["cond"]
    return SimpleNamespace(predict=predict, noisy=noisy, other=other, encode=encode, batch=batch, **branches)


def test_dropping_gives_the_unconditional_branch_and_keeps_the_landmarks(told):
    predicted = told.predict(told.noisy, told.uncond)
    np.testing.assert_array_equal(told.predict(told.noisy, dropped(told.cond, jnp.zeros(2))), predicted)
    nothing = Conditioning(spatial=told.cond.spatial)
    np.testing.assert_allclose(told.predict(told.noisy, nothing), predicted, atol=2e-5)
    assert np.abs(told.predict(told.noisy, told.cond) - predicted).max() > 1e-2


def test_dropping_is_decided_clip_by_clip(told):
    mixed = told.predict(told.noisy, dropped(told.cond, jnp.array([1.0, 0.0])))
    np.testing.assert_allclose(mixed[0], told.predict(told.noisy, told.cond)[0], atol=2e-5)
    np.testing.assert_allclose(mixed[1], told.predict(told.noisy, told.uncond)[1], atol=2e-5)


def test_keeping_everything_is_no_dropping(told):
    kept = dropped(told.cond, jnp.ones(2))
    np.testing.assert_array_equal(told.predict(told.noisy, kept), told.predict(told.noisy, told.cond))


@pytest.mark.parametrize("field", ["image_tokens", "reference", "portrait", "spatial"])
def test_each_condition_alone_changes_the_prediction(told, field):
    changed = told.cond.replace(**{field: getattr(told.other, field)})
    difference = np.abs(told.predict(told.noisy, changed) - told.predict(told.noisy, told.cond))
    assert difference.max(axis=(2, 3, 4)).min() > 1e-4, "some frame does not listen"


def test_each_frame_gets_the_landmarks_of_its_own_drawing(told):
    control = told.batch["control"]
    control = control.at[:, 1].set(255 - control[:, 1])
    spatial = told.encode(told.batch["reference"], control)["cond"].spatial
    changed = np.abs(spatial - told.cond.spatial).max(axis=(0, 2, 3, 4)) > 1e-4
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("temporal", [False, True])
def test_frames_see_each_other_through_the_temporal_modules_only(told, temporal):
    noisy = told.noisy.at[:, 1].add(1.0)
    difference = told.predict(noisy, told.cond, temporal) - told.predict(told.noisy, told.cond, temporal)
    changed = np.abs(difference).max(axis=(0, 2, 3, 4)) > 1e-5
    assert changed.tolist() == [temporal, True, temporal]


def test_decoding_undoes_the_scaling_of_latents(params):
    config = tiny.get_config()
    config.model.autoencoder.scaling_factor = 0.5
    system = FollowYourEmoji.from_config(config)
    image = to_pm1(tiny.make_batch(clips=1)["frames"])

    @jax.jit
    def both(params, image):
        latents = system.to_latents(params, image)
        plain = system.autoencoder.apply({"params": params["autoencoder"]}, image[0])
        mean, _ = system.autoencoder.apply({"params": params["autoencoder"]}, image[0], method="encode")
        return latents, mean, system.decode(params, latents), plain

    latents, mean, decoded, plain = both(params, image)
    np.testing.assert_allclose(latents[0], 0.5 * mean, rtol=1e-6)
    np.testing.assert_allclose(decoded[0], plain, atol=1e-5)


# The loss, with a denoiser that answers zero and remembers what it was asked


class Spied(FollowYourEmoji):
    """Its networks are replaced: cheap conditions, and a denoiser that notes its inputs in `asked`."""

    asked = SimpleNamespace()

    @property
    def denoiser(self):
        def apply(variables, noisy, timestep, conditioning, *, use_temporal):
            vars(self.asked).update(noisy=noisy, timestep=timestep, conditioning=conditioning)
            assert use_temporal == self.loss_config.temporal
            return jnp.zeros_like(noisy)

        return SimpleNamespace(apply=apply)

    def encode_portrait(self, params, portrait_u8):
        return Conditioning(image_tokens=jnp.ones((len(portrait_u8), 1, 16)), reference={})


@cache
def spied_loss(stage: str, prediction: str, **loss):
    """A spied system, and its jitted loss that also returns the clean latents and all that the denoiser was asked."""
    config = tiny.get_config(stage)
    config.model.prediction = prediction
    config.loss.update(loss)
    system = Spied.from_config(config)

    @jax.jit
    def run(params, batch, key):
        value, metrics = system.loss(params, batch, key, stage)
        clean = system.to_latents(params, to_pm1(batch["frames"]))
        return {"loss": value, **metrics, "clean": clean, **vars(system.asked)}

    return system, run


def spied(params, batch, stage="demo_stage1", seed=0, prediction="v", **loss):
    """Loss, metrics, clean latents and what the denoiser was asked."""
    system, run = spied_loss(stage, prediction, **loss)
    return SimpleNamespace(**run(params, batch, jax.random.key(seed)), system=system)


def test_the_loss_is_the_velocity_error_plus_the_error_of_the_predicted_clean_latents_in_the_masks(params):
    batch = tiny.make_batch()
    seen = spied(params, batch, facial=0.7)
    alpha, sigma = signal_noise(seen.system.schedule, seen.timestep, 4)
    flat = (-1, *seen.clean.shape[2:])
    clean, noisy = seen.clean.reshape(flat), seen.noisy.reshape(flat)
    noise = (noisy - alpha * clean) / sigma
    diffusion = jnp.mean((0 - (alpha * noise - sigma * clean)) ** 2)
    predicted_clean = alpha * noisy - sigma * 0
    masks = (batch["expression_mask"] + batch["oval_mask"]).reshape(-1, 4, 4, 1)
    facial = jnp.mean((masks * (predicted_clean - clean)) ** 2)
    assert seen.diffusion == pytest.approx(float(diffusion), rel=1e-3)
    assert seen.facial == pytest.approx(float(facial), rel=1e-3)
    assert seen.loss == pytest.approx(float(diffusion + 0.7 * facial), rel=1e-3)


def test_the_loss_follows_the_configured_prediction(params):
    """A network that predicts the clean latents, and says zero, is wrong by the clean latents."""
    batch = tiny.make_batch()
    seen = spied(params, batch, prediction="x0")
    masks = batch["expression_mask"] + batch["oval_mask"]
    assert seen.diffusion == pytest.approx(float(jnp.mean(seen.clean**2)), rel=1e-4)
    assert seen.facial == pytest.approx(float(jnp.mean((masks * seen.clean) ** 2)), rel=1e-4)
    assert seen.system.solver(2).prediction == "x0"


def test_the_facial_loss_sees_masked_cells_only_and_four_times_where_both_masks_hold(params):
    empty = np.zeros((2, 3, 4, 4, 1), np.float32)
    one, other = empty.copy(), empty.copy()
    one[0, 1, 2, 3], other[1, 2, 0, 0] = 1, 1

    def facial(expression, face):
        seen = spied(params, tiny.make_batch() | {"expression_mask": expression, "oval_mask": face})
        return float(seen.facial)

    assert facial(empty, empty) == 0
    assert facial(one, empty) == facial(empty, one) > 0
    assert facial(one, one) == pytest.approx(4 * facial(one, empty), rel=1e-5)
    assert facial(one, other) == pytest.approx(facial(one, empty) + facial(empty, other), rel=1e-5)


def test_single_frames_have_levels_of_their_own_and_clips_share_one(params):
    batch = tiny.make_batch(clips=3, frames=3)
    single, clip = (spied(params, batch, stage, seed=3) for stage in ("demo_stage1", "demo_stage2"))
    assert len(set(single.timestep.tolist())) == 9
    assert [len(set(row)) for row in clip.timestep.reshape(3, 3).tolist()] == [1, 1, 1]
    assert len(set(clip.timestep.tolist())) == 3


def test_the_share_of_dropped_clips_is_the_configs(params):
    batch = tiny.make_batch(clips=64, frames=1)
    for drop, low, high in ((0.0, 0, 0), (0.5, 16, 48), (1.0, 64, 64)):
        condition = spied(params, batch, drop=drop).conditioning
        away = condition.reference_mask == 0
        assert low <= int(away.sum()) <= high
        np.testing.assert_array_equal((condition.image_tokens == 0).all(axis=(1, 2)), away)
        assert np.isfinite(condition.spatial).all() and (np.abs(condition.spatial).max(axis=(1, 2, 3, 4)) > 0).all()


# Parameters


def test_init_gives_the_parameters_that_the_methods_read(system, params):
    shapes = {name: leaf.shape for name, leaf in tiny.leaves(params).items()}
    side = system.latent_shape()
    assert side == (4, 4, 8)
    assert shapes["guider/conv_out/kernel"][-1] == shapes["denoiser/conv_in/kernel"][-1] == 8
    assert not any(name.startswith("reference") and "motion_modules" in name for name in shapes)
    assert not any(name.startswith("reference/conv_out") for name in shapes)
    assert not any("visual_projection" in name for name in shapes), "the image encoder has no use for an embedding"
