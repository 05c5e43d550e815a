"""What AnyExpress (`systems.anyexpress`) minimises: the diffusion loss behind a clean prefix, and what sound tells of lips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import signal_noise
from portrait_jax.encoders.clip_text import empty_prompt
from portrait_jax.systems.diffusing import noised
from portrait_jax.systems.landmark_teacher import drawn, of_mouths, teacher_loss
from portrait_jax.training.lips import lip_loss
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray

Batch = Mapping[str, Array]


def diffusion_loss(
    system: Any, params: Params, batch: Batch, keys: Sequence[PRNGKeyArray]
) -> dict[str, Float[Array, ""]]:
    """The mean error over the frames that are to be made as `plain`; as `diffusion` the same with that of mouths counted
    `loss.mouth` times more; and what a teacher adds, mouths counted alike.

    Args:
        keys: of the latents, what is dropped, clips without a prefix, the levels and the noise.
    """
    chosen = system.loss_config
    posterior = keys[0] if system.behaviour.posterior else None
    latents = jax.lax.stop_gradient(system.to_latents(params, to_pm1(batch["frames"]), posterior))
    clips, frames = latents.shape[:2]
    conditioning = told(system, params, batch, keys[1], clips, frames)

    lead = jnp.arange(frames) < (chosen.prefix if chosen.temporal else 0)
    led = jax.random.bernoulli(keys[2], 1 - chosen.drop_prefix, (clips, 1))
    given = (lead & led).astype(jnp.float32)
    clean, flat, mixed, timestep = noised(
        system.schedule, latents, keys[3], keys[4], temporal=chosen.temporal, share=system.sampling.noise_share
    )
    noisy = rearrange(mixed, "(b f) h w c -> b f h w c", f=frames)
    is_given = given[:, :, None, None, None]
    noisy = jnp.where(is_given > 0, latents, noisy)
    run = partial(system.denoise, params, noisy, timestep, conditioning.replace(given=given))
    output, layers = drawn(run) if chosen.teacher else (run(), {})
    output = output.astype(jnp.float32)
    target = training_target(system.prediction, clean, flat, *signal_noise(system.schedule, timestep, clean.ndim))
    squares = (output - rearrange(target, "(b f) h w c -> b f h w c", f=frames)) ** 2

    def over_made(errors: Array) -> Array:
        return (errors.mean((2, 3, 4)) * (1 - given)).sum() / jnp.maximum((1 - given).sum(), 1)

    found = {"plain": over_made(squares)}
    if not chosen.mouth:
        return found | {"diffusion": found["plain"]}
    mouths = of_mouths(batch["landmarks"], batch["frames"].shape[2], chosen.mouth)
    found["diffusion"] = over_made(mouths(latents.shape[2]) * squares)
    if chosen.teacher:
        student = output, layers
        found["teacher"] = teacher_loss(system.teacher, params["teacher"], batch, noisy, timestep, student, mouths)
    return found


def lips(system: Any, params: Params, batch: Batch) -> Float[Array, ""]:
    """What audio tokens tell of lips (`training.lips.lip_loss`)."""
    tokens = system.audio_tokens(params, system.windows_of(params, batch["audio"], batch["frames"].shape[1]))
    return lip_loss(params["lip_reader"], tokens, batch["landmarks"])


def told(system: Any, params: Params, batch: Batch, key: PRNGKeyArray, clips: int, frames: int) -> Conditioning:
    """What a clip is told in training, each part dropped on its own."""
    chosen, keys = system.loss_config, jax.random.split(key, 3)

    def keep(key: PRNGKeyArray, share: float, *axes: int) -> Array:
        return jax.random.bernoulli(key, 1 - share, (clips,)).reshape(clips, *axes)

    who, silent = keep(keys[0], chosen.drop_reference), keep(keys[2], chosen.drop_audio, 1, 1, 1)
    nothing = empty_prompt(system.text_config, clips)
    ids = jnp.where(keep(keys[1], chosen.drop_text, 1), batch.get("text", nothing), nothing)
    conditioning = system.encode_portrait(params, batch["reference"]).replace(text=system.encode_text(params, ids))
    if (tokens := conditioning.image_tokens) is not None:
        nobody = system.no_identity(params, clips)
        conditioning = conditioning.replace(image_tokens=jnp.where(who[:, None, None], tokens, nobody))
    if conditioning.portrait is not None:
        conditioning = conditioning.replace(portrait=conditioning.portrait * who[:, None, None, None])
    if not chosen.sound:
        return conditioning
    audio = system.audio_tokens(params, system.windows_of(params, batch["audio"], frames))
    return conditioning.replace(audio=audio * silent)
