"""Pictures that a training run draws of itself: what was asked, and what the network makes of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from einops import rearrange

from portrait_jax.autoencoders.pixels import to_u8
from portrait_jax.diffusion.guidance import classifier_free
from portrait_jax.diffusion.sampler import sample
from portrait_jax.systems.system import System
from portrait_jax.typing import Array, Image, Params, PRNGKeyArray

CLIPS, FRAMES = 4, 4


def sample_strip(system: System, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray) -> Image:
    """Three rows per clip (truth, control image, sample), the portrait before each; at most four clips and frames.

    Args:
        batch: as in training, see `docs/data.md`.
    """
    frames, control = (np.asarray(batch[name][:CLIPS, :FRAMES]) for name in ("frames", "control"))
    portrait = np.asarray(batch["reference"][:CLIPS])
    noise = jax.random.normal(rng, (*frames.shape[:2], *system.latent_shape()))
    samples = to_u8(_draw(system, params, portrait, control, noise))
    first = np.stack([portrait, np.zeros_like(portrait), np.zeros_like(portrait)], axis=1)[:, :, None]
    rows = np.concatenate([first, np.stack([frames, control, samples], axis=1)], axis=2)
    return rearrange(rows, "b r f h w c -> (b r h) (f w) c")


@partial(jax.jit, static_argnames="system")
def _draw(system: Any, params: Params, portrait: Array, control: Array, noise: Array) -> Array:
    """Compiles once per system, not once per strip."""
    branches = system.encode_driving(params, system.encode_portrait(params, portrait), {"control": control})
    solver, guidance = system.solver(system.sampling.steps), classifier_free(system.sampling.guidance)
    latents = sample(partial(system.denoise, params), noise, branches, solver, guidance)
    return system.decode(params, latents)
