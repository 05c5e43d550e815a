"""What Hallo3 (`systems.hallo3`) minimises: the diffusion loss of clips that go on from frames, and what sound tells of lips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import add_noise, signal_noise
from portrait_jax.errors import ShapeError
from portrait_jax.training.lips import lip_loss, mouth_weights
from portrait_jax.typing import Array, Float, Int, Params, PRNGKeyArray

Batch = Mapping[str, Array]
Latents = Float[Array, "b f h w c"]


def squared_errors(
    system: Any, params: Params, latents: Latents, noise: Latents, timestep: Int[Array, " b"], told: Conditioning
) -> Latents:
    """Of each clip's prediction (eq. 1 with v-prediction, of uniform weight in v)."""
    schedule = system.training_schedule
    output = system.denoise(params, add_noise(schedule, latents, noise, timestep), timestep, told)
    target = training_target(system.prediction, latents, noise, *signal_noise(schedule, timestep, latents.ndim))
    return (output.astype(jnp.float32) - target) ** 2


def clip_loss(system: Any, params: Params, batch: Batch, rng: PRNGKeyArray) -> dict[str, Float[Array, ""]]:
    """The mean error as `plain`; as `diffusion` the same with that of mouths counted `loss.mouth` times more.

    Raises ShapeError for smaller frames than the system's where mouths count more.
    """
    chosen, keys = system.loss_config, jax.random.split(rng, 12)
    video, image = system.picture(batch["frames"]), system.picture(batch["reference"])
    clips, frames = video.shape[:2]

    def keep(key: PRNGKeyArray, share: float, x: Array) -> Array:
        kept = jax.random.bernoulli(key, 1 - share, (clips,))
        return x * kept.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)

    latents = system.to_latents(params, video, keys[0])
    face = system.reference_input(batch["reference"], batch["face_mask"])
    masked = keep(keys[1], chosen.reference_drop, system.to_latents(params, face, keys[2]))
    motion = video[:, : system.motion.frames]
    if chosen.noise is not None:
        mean, spread = chosen.noise
        level = jnp.exp(mean + spread * jax.random.normal(keys[3], (clips, 1, 1, 1, 1)))
        motion = motion + level * jax.random.normal(keys[4], motion.shape)
    known = system.known_latents(params, image, motion, keys[5], keys[6], frames)
    latents, masked, known = jax.lax.stop_gradient((latents, masked, keep(keys[7], chosen.known_drop, known)))

    text = keep(keys[8], chosen.text_drop, system.prompt(params, batch, clips))
    identity = system.identity(params, batch, clips)
    told = system.person(params, masked, identity, text).replace(text=text, known=known)
    if system.audio_by != "none":
        audio = keep(keys[9], chosen.audio_drop, system.windows_of(params, batch["audio"], frames))
        told = told.replace(audio=system.audio_tokens(params, audio))
    timestep = timesteps(keys[10], clips, system.schedule.length, chosen.timestep_power)
    squares = squared_errors(system, params, latents, jax.random.normal(keys[11], latents.shape), timestep, told)
    if not chosen.mouth:
        return {"plain": squares.mean(), "diffusion": squares.mean()}
    if batch["frames"].shape[2:4] != video.shape[2:4]:
        raise ShapeError("loss.mouth does not know where black bars moved the mouth; give frames of the system's size")
    latent_frames, side = squares.shape[1:3]
    weights = latent_mouths(batch["landmarks"], video.shape[2], (latent_frames, side), chosen.mouth)
    return {"plain": squares.mean(), "diffusion": (weights * squares).mean()}


def timesteps(key: PRNGKeyArray, clips: int, length: int, power: float) -> Int[Array, " b"]:
    """A timestep 0 … length − 1 for each clip; see `LossConfig.timestep_power`."""
    if power == 1:
        return jax.random.randint(key, (clips,), 0, length)
    drawn = jax.random.uniform(key, (clips,)) ** (1 / power)
    return jnp.minimum((drawn * length).astype(jnp.int32), length - 1)


def latent_mouths(
    landmarks_px: Float[Array, "b f 478 d"], size: int, shape: tuple[int, int], more: float
) -> Float[Array, "b lf h h 1"]:
    """What an error counts in each cell of latents of `shape` (frames, side): the mean over the frames that a latent one is of.

    The first frame has a latent of its own; every other is of equally many.
    """
    weights = mouth_weights(landmarks_px, size, shape[1], more)
    later = rearrange(weights[:, 1:], "b (n g) h w c -> b n g h w c", n=shape[0] - 1).mean(2)
    return jnp.concatenate([weights[:, :1], later], axis=1)


def lips(system: Any, params: Params, batch: Batch) -> Float[Array, ""]:
    """What audio tokens tell of lips (`training.lips.lip_loss`), but of the first frame, which has a token of its own."""
    tokens = system.audio_tokens(params, system.windows_of(params, batch["audio"], batch["frames"].shape[1]))
    return lip_loss(params["lip_reader"], tokens[:, 1:], batch["landmarks"][:, 1:])
