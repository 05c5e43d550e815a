"""Which frames of a clip a network is given: masked latents, in training and while gaps are filled.

A network that fills gaps sees beside its noisy latents the clean latents of the frames that are given, and zeros elsewhere.
In training the frames are drawn by one of `MASKINGS`; while sampling they are keyframes (`long_video.progressive`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Float, PRNGKeyArray


def tell(conditioning: Conditioning, latents: Float[Array, "b f h w c"], given: Float[Array, "b f"]) -> Conditioning:
    """The conditioning with the latents of the frames where `given` is 1; of the others nothing passes."""
    return conditioning.replace(known=latents * given[:, :, None, None, None], given=given)


def ends(key: PRNGKeyArray, clips: int, frames: int) -> Float[Array, "b f"]:
    """The first and the last frame are given."""
    position = jnp.arange(frames)
    return jnp.broadcast_to(((position == 0) | (position == frames - 1)).astype(jnp.float32), (clips, frames))


def each(key: PRNGKeyArray, clips: int, frames: int) -> Float[Array, "b f"]:
    """Every frame is given with probability one half."""
    return jax.random.bernoulli(key, 0.5, (clips, frames)).astype(jnp.float32)


def mixed(key: PRNGKeyArray, clips: int, frames: int) -> Float[Array, "b f"]:
    """One half of the clips by `ends`, the others by `each` (arXiv 2406.01900, section 3.3)."""
    which, inner = jax.random.split(key)
    first = jax.random.bernoulli(which, 0.5, (clips, 1))
    return jnp.where(first, ends(inner, clips, frames), each(inner, clips, frames))


Masking = Callable[[PRNGKeyArray, int, int], Array]
MASKINGS: Mapping[str, Masking] = MappingProxyType({"mixed": mixed, "ends": ends, "each": each})


def sample_given(
    key: PRNGKeyArray, clips: int, frames: int, masking: str = "mixed", blank: float = 0.0
) -> Float[Array, "b f"]:
    """Draws for every clip which frames are given: 1 given, 0 to be made.

    Args:
        masking: a name of `MASKINGS`.
        blank: share of clips of which nothing is given, as is the case when keyframes are made.

    Raises:
        ConfigError: for an unknown name.
    """
    check_masking(masking, blank)
    away, inner = jax.random.split(key)
    kept = jax.random.bernoulli(away, 1 - blank, (clips, 1)).astype(jnp.float32)
    return kept * MASKINGS[masking](inner, clips, frames)


def check_masking(masking: str, blank: float = 0.0) -> None:
    """Raises ConfigError for a strategy that does not exist, or a share outside 0..1."""
    if masking not in MASKINGS:
        raise ConfigError(f"masking strategy '{masking}' does not exist{nearest(masking, list(MASKINGS))}")
    if not 0 <= blank <= 1:
        raise ConfigError(f"the share of clips without a given frame must lie in 0..1, not {blank}")
