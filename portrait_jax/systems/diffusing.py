"""What every latent-diffusion system does alike: frames to latents and back, and the noise of a training step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.diffusion.noise import mixed_noise
from portrait_jax.diffusion.schedule import Schedule, add_noise
from portrait_jax.typing import Array, Float, Int, Params, PRNGKeyArray


def encode_frames(
    autoencoder: Any, params: Params, image_pm1: Float[Array, "b f H W 3"], scaling: float
) -> Float[Array, "b f h w c"]:
    """Images in [−1, 1] → posterior means times `scaling`, float32, frame by frame."""
    frames = rearrange(image_pm1, "b f h w c -> (b f) h w c")
    mean, _ = autoencoder.apply({"params": params}, frames, method="encode")
    return rearrange(mean.astype(jnp.float32) * scaling, "(b f) h w c -> b f h w c", b=image_pm1.shape[0])


def decode_frames(
    autoencoder: Any, params: Params, latents: Float[Array, "b f h w c"], scaling: float
) -> Float[Array, "b f H W 3"]:
    """Scaled latents → images in [−1, 1], frame by frame."""
    frames = rearrange(latents / scaling, "b f h w c -> (b f) h w c")
    images = autoencoder.apply({"params": params}, frames, method="decode")
    return rearrange(images, "(b f) h w c -> b f h w c", b=latents.shape[0])


class Noised(NamedTuple):
    """Frames of a training step, each for itself.

    Attributes:
        clean, noise, noisy: latents, the noise, and their mixture.
        timestep: how much noise there is.
    """

    clean: Float[Array, "n h w c"]
    noise: Float[Array, "n h w c"]
    noisy: Float[Array, "n h w c"]
    timestep: Int[Array, " n"]


def noised(
    schedule: Schedule,
    latents: Float[Array, "b f h w c"],
    level: PRNGKeyArray,
    noise: PRNGKeyArray,
    *,
    temporal: bool,
    share: float = 0.0,
) -> Noised:
    """Latents at random noise levels: one per clip if `temporal`, otherwise one per frame.

    Single frames share what a portrait costs that way, and learn from several levels at once.

    Args:
        level, noise: keys of the two draws.
        share: correlation between the noise of a clip's frames (`diffusion.noise`), if `temporal`.
    """
    clips, frames = latents.shape[:2]
    drawn = jax.random.randint(level, (clips, 1 if temporal else frames), 0, schedule.length)
    timestep = jnp.broadcast_to(drawn, (clips, frames)).reshape(-1)
    own = jax.random.normal(noise, latents.shape)
    if temporal:
        common = jax.random.normal(jax.random.fold_in(noise, 1), (clips, 1, *latents.shape[2:]))
        own = mixed_noise(own, common, share)
    clean, own = (rearrange(x, "b f h w c -> (b f) h w c") for x in (latents, own))
    return Noised(clean, own, add_noise(schedule, clean, own, timestep), timestep)
