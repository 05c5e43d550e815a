"""What sound tells of lips: a warm-up for speech encoders that start from nothing, and mouths whose errors count more."""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.face.topology import LIPS, index
from portrait_jax.training.faces import cells_near, inner_landmarks, reading_error
from portrait_jax.typing import Array, Float, Params


def lip_reader(frames: int = 1) -> nn.Dense:
    """Audio tokens → the lips of the `frames` frames that they are of, for `lip_loss`."""
    return nn.Dense(2 * len(LIPS) * frames, use_bias=False)


def lip_loss(
    params: Params, tokens: Float[Array, "b n k e"], landmarks_px: Float[Array, "b f 478 d"]
) -> Float[Array, ""]:
    """Mean absolute error, in `training.faces.UNIT`s, of how lips moved about their mean over a clip, read linearly off how its
    audio tokens did. Through pictures an encoder would have to learn that from a few cells.

    Only movement within a clip is compared: whose lips they are cannot be heard.

    Args:
        params: of a `lip_reader`.
        tokens: of every frame, or of every few.
        landmarks_px: of all frames, in any unit of length.

    Raises:
        ShapeError: if tokens do not divide the frames.
    """
    groups, frames = tokens.shape[1], landmarks_px.shape[1]
    each, rest = divmod(frames, groups)
    if rest:
        raise ShapeError(f"tokens of {groups} times do not divide {frames} frames; leave out what they are not of")
    heard = rearrange(tokens.astype(jnp.float32), "b n k e -> b n (k e)")
    lips = inner_landmarks(landmarks_px)[..., index(LIPS), :]
    moved = rearrange(lips - lips.mean(1, keepdims=True), "b (n g) l d -> b n (g l) d", g=each)
    read = lip_reader(each).apply({"params": params}, heard - heard.mean(1, keepdims=True))
    return reading_error(read, moved).mean()


def mouth_weights(
    landmarks_px: Float[Array, "b f 478 d"], size: int, side: int, more: float
) -> Float[Array, "b f h w 1"]:
    """What an error counts in each of `side`² cells over square frames of `size` pixels: in the middle of a mouth `more` times
    more than far from it."""
    return 1 + more * cells_near(landmarks_px[..., index(LIPS), :], size, side)
