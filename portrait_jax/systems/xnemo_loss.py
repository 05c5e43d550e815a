"""What X-NeMo (`systems.xnemo`) minimises: the diffusion loss with hidden reference tokens, and what the GAN head redraws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.adapters.reference_masking import mask_reference
from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.conditioning import dropped
from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import signal_noise
from portrait_jax.systems.diffusing import noised
from portrait_jax.systems.landmark_teacher import drawn, of_clips, teacher_loss
from portrait_jax.training.faces import batch_triplets, driving_crops, motion_reading, reference_crops
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray

Batch = Mapping[str, Array]


@dataclass(frozen=True)
class LossConfig:
    """Sections 3.2 and 3.3; what the paper leaves open is named so."""

    diffusion: float = 1.0
    """Weight of the diffusion loss; 0 leaves both UNets out, so that the other terms alone teach the motion encoder: a warm-up
    that the paper does not have."""
    motion: bool = True
    """Whether the denoiser is told what the face does; not in the first stage."""
    temporal: bool = False
    """Whether the frames of a clip see each other: the third stage."""
    head: bool = False
    """Whether the dual GAN head teaches the motion encoder too: the second stage."""
    end_to_end: bool = True
    """Whether the diffusion loss reaches what reads motion off a face; otherwise the head alone does, and the diffusion loss
    teaches only the layers that make tokens of it."""
    landmarks: float = 0.0
    """Weight of `landmark_loss`, a warm-up that the paper does not have."""
    teacher: float = 0.0
    """Weight of `landmark_teacher.teacher_loss`, another; beside the diffusion loss, and without temporal modules."""
    mask: float = 0.3
    """Share of reference tokens withheld, anew in each block."""
    drop: float = 0.1
    """Share of clips trained without image token and reference (open in the paper; needed for guidance). Half of them are told
    the portrait's own motion, as the unconditional branch is."""


def training_motion(system: Any, params: Params, batch: Batch, rng: PRNGKeyArray) -> Float[Array, "b f e"]:
    """Motion latents of changed crops: the encoder sees neither the place, nor the size, nor the colours as they are."""
    faces = driving_crops(batch, rng, system.face_size, system.augmentation)
    return system.encode_motion(params, 255 * faces)


def diffusion_loss(
    system: Any, params: Params, batch: Batch, motion: Array | None, keys: Sequence[PRNGKeyArray], rng: PRNGKeyArray
) -> dict[str, Float[Array, ""]]:
    """Equation 1, as `diffusion`, and what a teacher adds. Without temporal modules every frame has a noise level of its own.

    Args:
        motion: latents, "b f e"; None tells no motion.
        keys: of the dropped clips, the levels, the noise and the hidden reference tokens.
        rng: of `training_motion`.
    """
    chosen = system.loss_config
    latents = jax.lax.stop_gradient(system.to_latents(params, to_pm1(batch["frames"])))
    frames = latents.shape[1]
    portrait = system.encode_portrait(params, batch["reference"])
    told = portrait.replace(reference=mask_reference(keys[3], portrait.reference, chosen.mask))
    keep = jax.random.bernoulli(keys[0], 1 - chosen.drop, (len(latents),)).astype(jnp.float32)
    if motion is not None:
        told = system.told(params, told.replace(motion=training_tokens(system, params, motion, batch, keep, rng)))
    share = system.sampling.noise_share
    clean, noise, noisy, timestep = noised(
        system.schedule, latents, keys[1], keys[2], temporal=chosen.temporal, share=share
    )
    noisy = rearrange(noisy, "(b f) h w c -> b f h w c", f=frames)
    terms, given = {}, dropped(told, keep)

    def apply(**options: Any) -> Any:
        variables = {"params": params["denoiser"]}
        return system.denoiser.apply(variables, noisy, timestep, given, use_temporal=chosen.temporal, **options)

    if chosen.teacher:
        output, layers = drawn(apply)
        terms["teacher"] = teacher_loss(
            system.teacher, params["teacher"], batch, noisy, timestep, (output, layers), of_clips(keep, frames)
        )
    else:
        output = apply()
    output = rearrange(output, "b f h w c -> (b f) h w c").astype(jnp.float32)
    target = training_target(system.prediction, clean, noise, *signal_noise(system.schedule, timestep, clean.ndim))
    return {"diffusion": ((output - target) ** 2).mean()} | terms


def landmark_loss(
    system: Any, params: Params, batch: Batch, motion: Float[Array, "b f e"], rng: PRNGKeyArray
) -> Float[Array, ""]:
    """`training.faces.motion_reading`, read linearly off how the motion latent moved.

    An encoder that starts from nothing finds the small things, a mouth or a gaze, slowly through pictures. Differences alone
    are compared: the shape of the face, which the latent shall not tell, is no part of them.
    """
    own = system.encode_motion(params, 255 * reference_crops(batch, rng, system.face_size))
    variables = {"params": params["landmark_reader"]}
    return motion_reading(system.landmark_reader.apply(variables, motion - own[:, None]), batch)


def training_tokens(
    system: Any, params: Params, motion: Array, batch: Batch, keep: Float[Array, " b"], rng: PRNGKeyArray
) -> Float[Array, "b f k d"]:
    """Motion tokens; half of the clips that are not kept get the portrait's own, as the unconditional branch does."""
    taught = (lambda latents: latents) if system.loss_config.end_to_end else jax.lax.stop_gradient
    tokens = system.motion_tokens(params, taught(motion), batch_triplets(batch))
    own = system.encode_motion(params, 255 * reference_crops(batch, rng, system.face_size))
    still = system.motion_tokens(params, taught(own))[:, None]
    half = jax.random.bernoulli(jax.random.fold_in(rng, 1), 0.5, keep.shape)
    moves = jnp.where(half, 1.0, keep)[:, None, None, None]
    return moves * tokens + (1 - moves) * still


def redrawing(
    system: Any, batch: Batch, motion: Float[Array, "b f e"], rng: PRNGKeyArray
) -> tuple[Array, Array, Array]:
    """What the head redraws (`adversarial.head.DualHead.loss`): motion latents, reference crops, driving crops as they are."""
    size = system.head.pictures.size
    target, reference = driving_crops(batch, rng, size), reference_crops(batch, rng, size)
    return rearrange(motion, "b f e -> (b f) e"), reference, rearrange(target, "b f h w c -> (b f) h w c")
