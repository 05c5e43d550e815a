"""From the latents of a stretch of video to its frames, in groups of one size."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from portrait_jax.autoencoders.pixels import to_u8
from portrait_jax.sharding.placing import ONE_DEVICE, Placing
from portrait_jax.typing import Array, Float, UInt8


def decoded(
    decode: Callable[[Float[Array, "n g h w c"]], Float[Array, "n g side side 3"]],
    latents: Float[np.ndarray, "b f h w c"],
    side: int,
    group: int,
    groups: int = 1,
    shown: slice = slice(None),
    placing: Placing = ONE_DEVICE,
) -> UInt8[np.ndarray, "b n side side 3"]:
    """The `shown` frames of latents, of which `decode` makes pictures in [−1, 1].

    It gets `groups` times `group` frames of each clip, so that it compiles once and its memory stays flat; where these are missing
    at the end the last one stands for them, and what holds nothing that is shown is left out.

    Args:
        side: of the pictures, in pixels.
        group: frames that a decoder sees together.
        groups: how many of these lie beside the clips, as items of their own, for devices to have one each.
        placing: where they lie.
    """
    kept, step = np.arange(latents.shape[1])[shown], groups * group
    parts = [np.zeros((len(latents), 0, side, side, 3), np.uint8)]
    for first in range(0, latents.shape[1], step):
        part = latents[:, first : first + step]
        wanted = kept[(kept >= first) & (kept < first + step)] - first
        if wanted.size:
            missing = np.repeat(part[:, -1:], step - part.shape[1], axis=1)
            whole = rearrange(np.concatenate([part, missing], axis=1), "b (n g) h w c -> (b n) g h w c", n=groups)
            found = to_u8(decode(placing.items(jnp.asarray(whole))))
            parts.append(rearrange(found, "(b n) g h w c -> b (n g) h w c", n=groups)[:, wanted])
    return np.concatenate(parts, axis=1)
