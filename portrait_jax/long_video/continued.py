"""Videos of any length from clips that each go on from the last frames of the one before, in pixels.

Those frames are made twice: a clip is told them, and gives them again as its first ones, which are left out. One scan over
clips; its carry is what an interrupted run goes on from.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, PRNGKeyArray, PyTree

Frames = Float[Array, "b f h w c"]


def clip_count(frames: int, length: int, overlap: int) -> int:
    """Clips of `length` frames, of which the first `overlap` are not new, for a video of `frames`.

    Raises:
        ConfigError: if a clip has no new frame.
    """
    if not 0 <= overlap < length:
        raise ConfigError(f"clips of {length} frames cannot go on from {overlap}; leave at least one new frame")
    return -(-frames // (length - overlap))


def clip_features(
    features: Float[Array, "b f *feature"], length: int, overlap: int
) -> Float[Array, "clips b length *feature"]:
    """What every clip is told of each of its frames, from what the video is told.

    Before the video's first frame stand zeros; after its last one, where a clip is longer, that one goes on.
    """
    frames, new = features.shape[1], length - overlap
    clips = clip_count(frames, length, overlap)
    before = jnp.zeros_like(features[:, :1])
    place = np.arange(clips)[:, None] * new + np.arange(length) - overlap
    whole = jnp.concatenate([before, features], axis=1)
    return jnp.moveaxis(whole[:, np.clip(place, -1, frames - 1) + 1], 1, 0)


def sample_continued(
    clip: Callable[[Frames, PyTree, PRNGKeyArray], Frames],
    carry: Frames,
    inputs: PyTree,
    rng: PRNGKeyArray,
    first: int | Array = 0,
) -> tuple[Frames, Float[Array, "b frames h w c"]]:
    """Makes clip after clip. Pure; jit it with what `clip` needs as arguments.

    Args:
        clip: (frames it goes on from, its own entry of `inputs`, key) → all its frames, those repeated included.
        carry: what the first clip goes on from, copies of the portrait or the carry of an earlier call: "b overlap h w c".
        inputs: every leaf has one entry per clip along its first axis.
        first: number of the first clip, so that a resumed run draws the same noise.

    Returns:
        the carry for the clips that follow, and the new frames of all clips.
    """
    overlap = carry.shape[1]
    count = jax.tree.leaves(inputs)[0].shape[0]

    def body(carry: Frames, scanned: tuple[Array, PyTree]) -> tuple[Frames, Float[Array, "b g h w c"]]:
        position, given = scanned
        video = clip(carry, given, jax.random.fold_in(rng, position)).astype(carry.dtype)
        return video[:, -overlap:], video[:, overlap:]

    carry, new = jax.lax.scan(body, carry, (first + jnp.arange(count), inputs))
    return carry, jnp.moveaxis(new, 0, 1).reshape(carry.shape[0], -1, *carry.shape[2:])
