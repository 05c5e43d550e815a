"""Decoding in overlapping tiles, so that memory does not grow with the picture.

As diffusers' `enable_tiling` does, but with tiles of one size, so that one program is compiled and a scan runs it tile by tile,
and spread evenly, so that the last ones are no narrower. A decoder's group norms and its attention see one tile at a time:
colours may differ a little from those of the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.typing import Array, Float, Int


def shared_cells(tile: int, overlap: float) -> int:
    """Latent cells that neighbouring tiles of `tile` cells share at least, for a share `overlap` of them.

    Raises:
        ConfigError: for a negative tile, or a share with which tiles would not go on.
    """
    if tile < 0:
        raise ConfigError(
            f"sampling.decode_tile {tile} must be a tile's side in latent cells, or 0 for the whole picture"
        )
    cells = round(tile * overlap)
    if overlap < 0 or cells >= max(tile, 1) or overlap >= 1:
        raise ConfigError(
            f"sampling.decode_overlap {overlap} of tiles of {tile} cells leaves nothing between one and the next; give a share "
            "from 0 to less than 1"
        )
    return cells


def tile_starts(size: int, tile: int, shared: int) -> Int[np.ndarray, " n"]:
    """First cells of the fewest tiles over `size` cells that share at least `shared`: spread evenly from border to border."""
    count = 1 + -(-(size - tile) // (tile - shared))
    return np.round(np.linspace(0, size - tile, count)).astype(np.int32)


def tile_shares(starts: Int[np.ndarray, " n"], tile: int, size: int) -> Float[np.ndarray, "n side"]:
    """How much of each pixel along an axis is each tile's; a pixel's shares add up to 1. All in pixels.

    They rise and fall linearly over what two tiles share, and are 0 at a tile's own first and last pixel there, where its decoder
    saw nothing beyond.
    """
    weights = np.ones((len(starts), tile))
    for i, met in enumerate(np.maximum(starts[:-1] + tile - starts[1:], 0)):
        # One pixel has no first and last: both tiles have half of it.
        rise = np.linspace(0, 1, met) if met > 1 else np.full(met, 0.5)
        weights[i + 1, :met] *= rise
        weights[i, tile - met :] *= rise[::-1]
    places, total = starts[:, None] + np.arange(tile), np.zeros(size)
    np.add.at(total, places, weights)
    return (weights / total[places]).astype(np.float32)


def decode_tiled(
    decode: Callable[[Float[Array, "*b h w c"]], Float[Array, "..."]],
    latent: Float[Array, "*b h w c"],
    tile: int,
    overlap: float = 0.25,
) -> Float[Array, "..."]:
    """`decode(latent)` by overlapping square tiles; whole if `tile` is 0 or a tile covers the picture.

    Args:
        decode: latents "… h w c" of any size → pictures "… H W 3", so many times as high and as wide. It may have fewer or more
            frames in its pictures than in its latents.
        latent: axes before the last three are decoded together, tile by tile.
        tile: side in latent cells; where the picture is smaller, a tile is as small.
        overlap: share of a tile that its neighbour has too, at least.

    Raises:
        ConfigError: see `shared_cells`.
        ShapeError: for a decoder whose pictures are no whole number of times as large as its latents.
    """
    shared, (height, width) = shared_cells(tile, overlap), latent.shape[-3:-1]
    sides = min(tile, height), min(tile, width)
    if tile == 0 or sides == (height, width):
        return decode(latent)
    part = jax.ShapeDtypeStruct((*latent.shape[:-3], *sides, latent.shape[-1]), latent.dtype)
    made = jax.eval_shape(decode, part)
    stride = made.shape[-2] // sides[1]
    if made.shape[-3:-1] != (sides[0] * stride, sides[1] * stride):
        raise ShapeError(
            f"the decoder makes {made.shape[-3]}×{made.shape[-2]} pixels of {sides[0]}×{sides[1]} cells; tiles need the same whole "
            "number of pixels per cell along both"
        )
    axes = []
    for size, side in zip((height, width), sides):
        starts = tile_starts(size, side, min(shared, side - 1))
        axes.append((starts, tile_shares(stride * starts, stride * side, stride * size)))
    (rows, row_shares), (columns, column_shares) = axes
    before, empty = [0] * (latent.ndim - 3), [0] * (len(made.shape) - 3)

    def add(picture: Array, at: tuple[Array, ...]) -> tuple[Array, None]:
        row, column, row_share, column_share = at
        drawn = decode(jax.lax.dynamic_slice(latent, (*before, row, column, 0), part.shape))
        place = (*empty, stride * row, stride * column, 0)
        seen = jax.lax.dynamic_slice(picture, place, made.shape)
        share = row_share[:, None, None] * column_share[:, None]
        return jax.lax.dynamic_update_slice(picture, seen + share * drawn, place), None

    # One picture is carried and added to: tiles side by side would take its memory once more.
    blank = jnp.zeros((*made.shape[:-3], stride * height, stride * width, made.shape[-1]), made.dtype)
    i, j = np.divmod(np.arange(len(rows) * len(columns)), len(columns))
    places = tuple(jnp.asarray(axis) for axis in (rows[i], columns[j], row_shares[i], column_shares[j]))
    return jax.lax.scan(add, blank, places)[0]
