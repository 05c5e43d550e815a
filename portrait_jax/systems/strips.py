"""Pictures that a training run draws of itself: what was asked, and what the network makes of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from einops import rearrange

from portrait_jax.autoencoders.pixels import to_u8
from portrait_jax.diffusion.sampler import sample
from portrait_jax.systems.system import System, cache_of, guidance_of
from portrait_jax.typing import Array, Image, Params, PRNGKeyArray

CLIPS, FRAMES = 4, 4


def few(batch: Mapping[str, Array]) -> dict[str, Array]:
    """A batch's first clips and frames: what a strip shows. Arrays named `reference…` have no frames."""
    return {name: x[:CLIPS] if name.startswith("reference") else x[:CLIPS, :FRAMES] for name, x in batch.items()}


def sample_strip(
    system: System,
    params: Params,
    batch: Mapping[str, Array],
    driving: Mapping[str, Array],
    rng: PRNGKeyArray,
    shown: Array | None = None,
    told: Mapping[str, Array] | None = None,
) -> Image:
    """Rows per clip: truth, what drives it if there is a picture of that, sample; the portrait before each.

    Args:
        batch: `frames` u8 "b f h w 3" and `reference` u8 "b h w 3"; see `few`.
        driving: what `system.encode_driving` takes, for the same clips and frames.
        shown: pictures of it, u8 like the frames.
        told: what `system.encode_portrait` is told beside the portraits, by argument.
    """
    frames, portrait = np.asarray(batch["frames"]), np.asarray(batch["reference"])
    noise = jax.random.normal(rng, (*frames.shape[:2], *system.latent_shape()))
    samples = to_u8(_draw(system, params, portrait, dict(driving), noise, dict(told or {})))
    rows = [frames, samples] if shown is None else [frames, np.asarray(shown), samples]
    first = np.stack([portrait, *[np.zeros_like(portrait)] * (len(rows) - 1)], axis=1)[:, :, None]
    return rearrange(np.concatenate([first, np.stack(rows, axis=1)], axis=2), "b r f h w c -> (b r h) (f w) c")


@partial(jax.jit, static_argnames="system")
def _draw(
    system: Any, params: Params, portrait: Array, driving: Mapping[str, Array], noise: Array, told: Mapping[str, Array]
) -> Array:
    """Compiles once per system, not once per strip."""
    branches = system.encode_driving(params, system.encode_portrait(params, portrait, **told), driving)
    solver, guidance = system.solver(system.sampling.steps), guidance_of(system.sampling)
    latents = sample(
        partial(system.denoise, params), noise, branches, solver, guidance, cache=cache_of(system.sampling)
    )
    return system.decode(params, latents)
