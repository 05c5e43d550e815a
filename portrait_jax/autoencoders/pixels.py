"""Pixel ranges: files and records hold 0..255, networks see [−1, 1]."""

import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.typing import Array, Float


def to_pm1(image_u8: Array) -> Float[Array, "*b h w 3"]:
    """0..255 → [−1, 1]."""
    return jnp.asarray(image_u8).astype(jnp.float32) / 127.5 - 1


def to_u8(image_pm1: Array) -> np.ndarray:
    """[−1, 1] → 0..255, clipped and rounded, on the host."""
    return np.asarray(jnp.clip(jnp.round((image_pm1.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8))


def worn(image_u8: Array) -> Array:
    """0..255 after a trip to [−1, 1] in float32 and back that cuts off fractions, as some pipelines make it: 1..63 lose one."""
    return image_u8 - ((image_u8 > 0) & (image_u8 < 64)).astype(image_u8.dtype)


def cut(image_pm1: Array) -> Float[Array, "*b h w 3"]:
    """[−1, 1] → the next lower of the 256 levels, still in [−1, 1]: what cutting off fractions makes of a picture."""
    level = jnp.floor(jnp.clip(image_pm1.astype(jnp.float32) / 2 + 0.5, 0, 1) * 255)
    return level / 127.5 - 1


def on_bars(image: Array, height: int, width: int) -> Array:
    """Pictures "… h w c" in the middle of `height`×`width` pixels, the rest 0; those of that size as they are.

    Raises ShapeError for larger ones.
    """
    rows, columns = height - image.shape[-3], width - image.shape[-2]
    if min(rows, columns) < 0:
        raise ShapeError(
            f"pictures of {image.shape[-3]}×{image.shape[-2]} pixels do not fit into {height}×{width}; make them smaller"
        )
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return jnp.pad(image, (*[(0, 0)] * (image.ndim - 3), *around))


def middle(image: Float[Array, "b h w 3"], share: float) -> Float[Array, "b h2 w2 3"]:
    """The middle of a picture, `share` of its height and width."""
    top, left = (round(size * (1 - share) / 2) for size in image.shape[1:3])
    return image[:, top : image.shape[1] - top, left : image.shape[2] - left]
