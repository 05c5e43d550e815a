"""What a training batch tells HunyuanPortrait, and what it is asked for: by networks that only repeat what they are told."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.prediction import training_target
from portrait_jax.errors import ConfigError
from portrait_jax.face.intensity import RELEASED
from portrait_jax.systems.hunyuan_loss import diffusion_loss, told_of_batch
from portrait_jax.systems.hunyuan_settings import LossConfig
from portrait_jax.training.aligned import COLOURS
from portrait_jax.training.augment import AugmentConfig
from tests.tiny_hunyuan import make_batch, make_system, picture

CLEAN = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 3))
STILL = AugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, scale=0.0, uneven=0.0, bend=0.0)


def repeating(prediction: str = "v", augment: AugmentConfig = STILL, said: str = "v", **loss: float) -> SimpleNamespace:
    """A system whose tokens are mean colours, of crops and of the aligned face, and whose denoiser knows what `CLEAN` is.

    `said` is what the denoiser predicts.
    """

    def denoise(variables, noisy, timestep, told):
        level = jnp.exp(4 * timestep)[:, None, None, None, None]
        alpha = jax.lax.rsqrt(1 + level**2)
        return training_target(said, CLEAN, (noisy - alpha * CLEAN) / (level * alpha), alpha, level * alpha)

    def motion_tokens(params, faces, heads, head_level, expression_level):
        return jnp.stack([faces.mean((2, 3)), heads.mean((2, 3))], axis=2)

    return SimpleNamespace(
        prediction=prediction, augment_config=augment, loss_config=LossConfig(**loss), intensity=RELEASED, face_size=8,
        aligned_size=8, sampling=SimpleNamespace(noise_share=0.0), denoiser=SimpleNamespace(apply=denoise),
        to_latents=lambda params, frames: CLEAN, motion_tokens=motion_tokens,
        encode_portrait=lambda params, image, aligned: Conditioning(
            image_tokens=aligned.mean((1, 2))[:, None], portrait=CLEAN[:, 0]
        ),
        pose_features=lambda params, skeletons, clips, frames: skeletons,
    )  # fmt: skip


def told(batch, key: int = 0, **settings) -> Conditioning:
    run = jax.jit(lambda rng: told_of_batch(repeating(**settings), {}, batch, rng))
    return run(jax.random.key(key))


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_loss_asks_for_what_the_solver_reads(prediction):
    def loss(said: str) -> float:
        system = repeating(prediction, said=said, level_deviation=0.5)
        run = jax.jit(lambda rng: diffusion_loss(system, {"denoiser": {}}, make_batch(), rng)["diffusion"])
        return float(run(jax.random.key(1)))

    assert loss(prediction) < 1e-6
    assert loss({"v": "epsilon", "epsilon": "v"}[prediction]) > 0.1
    assert make_system(model={"prediction": prediction}).solver(2).prediction == prediction


def test_predictions_that_do_not_exist_or_do_not_fit_a_teacher_are_named():
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        make_system(model={"prediction": "epsilo"})
    with pytest.raises(ConfigError, match="predicts 'v' cannot teach a student that predicts 'epsilon'"):
        make_system("demo_attention", {"prediction": "epsilon"})


@pytest.mark.parametrize(("drop", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_skeletons_are_shown_unless_they_are_dropped(drop, share):
    skeletons = picture(2, 2, 16, 16, seed=7)
    shown = told(make_batch() | {"skeletons": skeletons}, drop_pose=drop).spatial
    np.testing.assert_allclose(shown, share * np.asarray(skeletons) / 255, atol=1e-6)


def test_colours_of_the_face_crop_change_at_random_and_those_of_the_head_do_not():
    batch = make_batch()
    faces, heads = 0, 1
    plain, one, other = told(batch).motion, *(told(batch, key, augment=COLOURS).motion for key in (1, 2))
    for changed in (one, other):
        assert np.abs(changed - plain)[:, :, faces].max() > 0.02
        np.testing.assert_allclose(changed[:, :, heads], plain[:, :, heads], atol=1e-6)
    assert np.abs(one - other)[:, :, faces].max() > 0.02


def test_the_identity_is_told_from_a_random_frame_of_what_is_to_be_drawn():
    """Frame i has the grey 60 (i + 1)."""
    batch = make_batch(clips=2, frames=4)
    grey = 60 * (1 + jnp.arange(4, dtype=jnp.uint8))
    batch["frames"] = jnp.broadcast_to(grey[None, :, None, None, None], batch["frames"].shape)
    batch["landmarks"] = jnp.broadcast_to(batch["landmarks"][:1, :1], batch["landmarks"].shape)
    batch["driving"] = 0 * batch["frames"]
    run = jax.jit(lambda rng: told_of_batch(repeating(), {}, batch, rng).image_tokens.max(-1))
    seen = {round(float(value)) for key in range(12) for value in run(jax.random.key(key)).ravel()}
    assert len(seen) == 4
