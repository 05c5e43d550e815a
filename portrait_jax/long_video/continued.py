"""Videos of any length from clips that each go on from the last frames of the one before, in pixels.

Those frames are made twice: a clip is told them, and gives them again as its first ones, which are left out. One scan over
clips; its carry is what an interrupted run goes on from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError
from portrait_jax.long_video.plan import check_windows
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree

Frames = Float[Array, "b f h w c"]


@dataclass(frozen=True)
class Clips:
    """How a video of `frames` frames is made of clips of `length`, whose first `overlap` frames are not new.

    Raises ConfigError if there is no frame, or if a clip has no new one.
    """

    frames: int
    length: int
    overlap: int

    def __post_init__(self) -> None:
        check_windows(self.frames, self.length)
        if not 0 < self.overlap < self.length:
            raise ConfigError(
                f"clips of {self.length} frames cannot go on from {self.overlap}; overlap one frame at the least, and leave "
                "one that is new"
            )

    @property
    def stride(self) -> int:
        """New frames of a clip."""
        return self.length - self.overlap

    @property
    def count(self) -> int:
        """The number of clips."""
        return -(-self.frames // self.stride)

    @property
    def borders(self) -> Int[np.ndarray, " n"]:
        """Frames that were made by another clip than the frame before."""
        return np.arange(1, self.count) * self.stride

    @property
    def blended(self) -> Int[np.ndarray, " n"]:
        """None: what two clips share is left out of the later one."""
        return np.zeros(0, int)

    def first_frame(self, clip: int) -> int:
        """The first new frame of a clip; `frames` for one past the end."""
        return min(clip * self.stride, self.frames)

    def told(self, first: int, size: int) -> Int[np.ndarray, "size length"]:
        """Which frames of the video those of `size` clips from number `first` are: −1 before its first one; after its last one,
        where a clip is longer, that one goes on."""
        places = np.arange(first, first + size)[:, None] * self.stride + np.arange(self.length) - self.overlap
        return np.clip(places, -1, self.frames - 1)


def clip_features(
    features: Float[Array, "b f *feature"], length: int, overlap: int
) -> Float[Array, "clips b length *feature"]:
    """What every clip is told of each of its frames, from what the video is told; zeros before the video's first frame."""
    clips = Clips(features.shape[1], length, overlap)
    whole = jnp.concatenate([jnp.zeros_like(features[:, :1]), features], axis=1)
    return jnp.moveaxis(whole[:, clips.told(0, clips.count) + 1], 1, 0)


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
