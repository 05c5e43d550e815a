"""What HunyuanPortrait (`systems.hunyuan_portrait`) minimises, and what a training batch tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.noise import mixed_noise
from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import timestep_at
from portrait_jax.systems.hunyuan_settings import scaled
from portrait_jax.systems.landmark_teacher import drawn, of_clips, teacher_loss
from portrait_jax.training import aligned
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray

Batch = Mapping[str, Array]


def driver_of_batch(system: Any, batch: Batch) -> dict[str, Array]:
    """What drives the clips of a batch: `faces`, `heads`, 0..1, "b f s s 3"; `head_level`, `expression_level`, int "b f"."""
    size = system.face_size
    head, expression = aligned.levels(aligned.five(batch["landmarks"]), system.intensity)
    return {
        "faces": aligned.face_crops(batch, size),
        "heads": aligned.head_crops(batch, size),
        "head_level": head,
        "expression_level": expression,
    }


def told_of_batch(system: Any, params: Params, batch: Batch, rng: PRNGKeyArray) -> Conditioning:
    """Portrait and motion of a batch, nothing withheld but skeletons; the face crops' colours and size are changed at random."""
    keys = jax.random.split(rng, 3)
    faces = aligned.recognised_faces(batch, keys[0], system.aligned_size)
    portrait = system.encode_portrait(params, batch["reference"], 255 * faces)
    driver = driver_of_batch(system, batch)
    crops = aligned.jittered(keys[1], driver.pop("faces"), system.augment_config)
    motion = system.motion_tokens(params, crops, driver["heads"], driver["head_level"], driver["expression_level"])
    skeletons = batch.get("skeletons")
    if skeletons is not None:
        shown = jax.random.bernoulli(keys[2], 1 - system.loss_config.drop_pose, (len(skeletons), 1, 1, 1, 1))
        skeletons = skeletons.astype(jnp.float32) / 255 * shown
    return portrait.replace(motion=motion, spatial=system.pose_features(params, skeletons, *motion.shape[:2]))


def diffusion_loss(system: Any, params: Params, batch: Batch, rng: PRNGKeyArray) -> dict[str, Float[Array, ""]]:
    """Mean square error of what `system.prediction` names (v, or the noise) at levels ln σ̂ ~ N(level_mean,
    level_deviation²) of the loss's settings, with conditions dropped as guidance needs it, as `diffusion`; and what a teacher adds.
    """
    chosen, keys = system.loss_config, jax.random.split(rng, 4)
    clean = jax.lax.stop_gradient(system.to_latents(params, to_pm1(batch["frames"])))
    clips = len(clean)
    told = told_of_batch(system, params, batch, keys[0])
    draw = jax.random.uniform(keys[1], (clips,))
    said = scaled(told, draw >= chosen.drop_all, "image_tokens", "portrait")
    said = scaled(said, draw >= chosen.drop_all + chosen.drop_motion, "motion")
    log_level = chosen.level_mean + chosen.level_deviation * jax.random.normal(keys[2], (clips,))
    level = jnp.exp(log_level)[:, None, None, None, None]
    alpha = jax.lax.rsqrt(1 + level**2)
    own, common = (
        jax.random.normal(key, shape)
        for key, shape in ((keys[3], clean.shape), (jax.random.fold_in(keys[3], 1), (clips, 1, *clean.shape[2:])))
    )
    noise = mixed_noise(own, common, system.sampling.noise_share)
    noisy, terms = alpha * clean + level * alpha * noise, {}

    def apply(**options: Any) -> Any:
        return system.denoiser.apply({"params": params["denoiser"]}, noisy, log_level / 4, said, **options)

    if chosen.teacher:
        output, layers = drawn(apply)
        time = jnp.repeat(timestep_at(system.teacher.schedule, log_level), clean.shape[1])
        kept = of_clips((draw >= chosen.drop_all + chosen.drop_motion).astype(jnp.float32), clean.shape[1])
        terms["teacher"] = teacher_loss(system.teacher, params["teacher"], batch, noisy, time, (output, layers), kept)
    else:
        output = apply()
    target = training_target(system.prediction, clean, noise, alpha, level * alpha)
    return {"diffusion": ((output.astype(jnp.float32) - target) ** 2).mean()} | terms
