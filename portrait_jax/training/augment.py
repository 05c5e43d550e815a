"""Changes of driving pictures inside the step: where the face lies, how large, how bent and in which colours.

What a motion encoder must not read off its input (whose face it is, its shape, its light) is changed at random; what it
must read (expression, gaze, head turn) stays (X-NeMo, arXiv 2507.23143, section 3.3). All geometry is one map from the
result's pixels to the picture's, so that each clip is read once. One draw per clip, shared by its frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, PRNGKeyArray

Clips = Float[Array, "b f h w 3"]
Boxes = Float[Array, "b f 4"]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of grey (ITU-R BT.601)."""
TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
"""RGB to grey and two colour axes, in whose plane hue is an angle."""
MARGIN = 1.1
"""Side of a crop per longer side of the face's box."""


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 leaves that change out, and with all at 0 only the crop around the face remains."""

    brightness: float = 0.4
    """A factor within 1 ± this."""
    contrast: float = 0.4
    """Distance from the clip's mean grey, times a factor within 1 ± this."""
    saturation: float = 0.4
    """Distance from grey, times a factor within 1 ± this."""
    hue: float = 0.1
    """Turn of the colours within ± this, in whole turns."""
    scale: float = 0.3
    """Size of the face, times a factor within 1 ± this."""
    uneven: float = 0.5
    """Share of the clips whose width and height are scaled by factors of their own."""
    bend: float = 0.03
    """Standard deviation of the control points' displacement, in sides of the crop."""
    grid: int = 4
    """Control points per side of the piecewise affine map."""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"augmentation: {name} {getattr(self, name)} must be from 0 up to below 1")
        if not 0 <= self.hue <= 0.5 or not 0 <= self.uneven <= 1 or self.bend < 0 or self.grid < 2:
            raise ConfigError(
                f"augmentation: hue {self.hue} goes to 0.5, uneven {self.uneven} to 1, bend {self.bend} from 0, "
                f"grid {self.grid} from 2"
            )


STILL = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""No change but the crop."""


def augment(
    rng: PRNGKeyArray, clips_01: Clips, boxes_px: Boxes, size: int, config: AugmentConfig
) -> Float[Array, "b f s s 3"]:
    """Square crops around the faces of a batch of clips, changed at random; deterministic in `rng`.

    Args:
        clips_01: RGB in 0..1.
        boxes_px: (left, top, right, bottom) of the face in each frame.
        size: side of the result, pixels. Pixels are interpolated, not averaged: crops of more than twice the size alias.

    Returns:
        values in 0..1; beyond the picture its border goes on.
    """
    place, bend, colour = jax.random.split(rng, 3)
    at = jnp.broadcast_to(pixel_grid(size), (len(clips_01), size, size, 2))
    at = at + bends(bend, len(clips_01), size, config)
    at = 0.5 + (at - 0.5) / factors(place, len(clips_01), config)[:, None, None]
    corners, sides = square(boxes_px)
    points = corners[..., None, None, :] + at[:, None] * sides[..., None, None, None]
    cut = jax.vmap(jax.vmap(bilinear))(clips_01, points)
    return jitter(colour, cut, config)


def square(boxes_px: Boxes) -> tuple[Float[Array, "b f 2"], Float[Array, "b f"]]:
    """Left top corner (x, y) and side of the square around each box that is `MARGIN` of its longer side."""
    low, high = boxes_px[..., :2], boxes_px[..., 2:]
    side = MARGIN * (high - low).max(-1)
    return (low + high) / 2 - side[..., None] / 2, side


def pixel_grid(size: int) -> Float[Array, "s s 2"]:
    """(x, y) of the pixel centres of a square, in sides: 0 is its left (upper) edge."""
    places = (jnp.arange(size) + 0.5) / size
    return jnp.stack(jnp.meshgrid(places, places, indexing="xy"), axis=-1)


def factors(rng: PRNGKeyArray, count: int, config: AugmentConfig) -> Float[Array, "b 2"]:
    """How much wider and higher each clip's face becomes."""
    both, which = jax.random.split(rng)
    drawn = jax.random.uniform(both, (count, 2), minval=1 - config.scale, maxval=1 + config.scale)
    uneven = jax.random.uniform(which, (count, 1)) < config.uneven
    return jnp.where(uneven, drawn, drawn[:, :1])


def bends(rng: PRNGKeyArray, count: int, size: int, config: AugmentConfig) -> Float[Array, "b s s 2"]:
    """Displacement of every pixel: affine in each of the two triangles of a cell between control points."""
    knots = config.bend * jax.random.normal(rng, (count, config.grid, config.grid, 2))
    return piecewise_affine(knots, size)


def piecewise_affine(knots: Float[Array, "b n n 2"], size: int) -> Float[Array, "b s s 2"]:
    """Values at n×n points over a square, corners included, carried on to its size×size pixel centres.

    Cells are cut along the diagonal from their upper right to their lower left corner.
    """
    cells = knots.shape[1] - 1
    places = (np.arange(size) + 0.5) / size * cells
    cell = np.minimum(places.astype(int), cells - 1)
    inside = (places - cell).astype(np.float32)
    row, column = cell[:, None], cell[None]
    y, x = inside[:, None, None], inside[None, :, None]
    corner = {(i, j): knots[:, row + i, column + j] for i in (0, 1) for j in (0, 1)}
    upper = corner[0, 0] + x * (corner[0, 1] - corner[0, 0]) + y * (corner[1, 0] - corner[0, 0])
    lower = corner[1, 1] + (1 - x) * (corner[1, 0] - corner[1, 1]) + (1 - y) * (corner[0, 1] - corner[1, 1])
    return jnp.where(x + y <= 1, upper, lower)


def bilinear(image: Float[Array, "h w c"], points_px: Float[Array, "*n 2"]) -> Float[Array, "*n c"]:
    """The picture at (x, y) points, 0 being its left (upper) edge; between four pixels, beyond the border its own."""
    height, width = image.shape[:2]
    # Not finite: a box that nobody found. The corner stands in, where an index of NaN would be anything.
    points = jnp.nan_to_num(points_px) - 0.5
    x, y = jnp.clip(points[..., 0], 0, width - 1), jnp.clip(points[..., 1], 0, height - 1)
    left, top = jnp.floor(x).astype(int), jnp.floor(y).astype(int)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = image[top, left] * (1 - u) + image[top, right] * u
    lower = image[bottom, left] * (1 - u) + image[bottom, right] * u
    return upper * (1 - v) + lower * v


def jitter(rng: PRNGKeyArray, clips_01: Clips, config: AugmentConfig) -> Clips:
    """Brightness, contrast, saturation and hue, in this order, one draw per clip; clipped to 0..1 at the end."""
    keys = jax.random.split(rng, 4)

    def factor(key: PRNGKeyArray, strength: float) -> Float[Array, "b 1 1 1 1"]:
        return 1 + strength * jax.random.uniform(key, (len(clips_01), 1, 1, 1, 1), minval=-1.0)

    x = clips_01 * factor(keys[0], config.brightness)
    mean = (x @ LUMA).mean((1, 2, 3))[:, None, None, None, None]
    x = mean + (x - mean) * factor(keys[1], config.contrast)
    grey = (x @ LUMA)[..., None]
    x = grey + (x - grey) * factor(keys[2], config.saturation)
    if config.hue:
        x = jnp.einsum("bfhwc,bdc->bfhwd", x, turn(factor(keys[3], config.hue)[:, 0, 0, 0, 0] - 1))
    return jnp.clip(x, 0.0, 1.0)


def turn(hue: Float[Array, " b"]) -> Float[Array, "b 3 3"]:
    """RGB matrices that turn colours by `hue` (in whole turns) about the axis of greys and keep their grey."""
    angle = 2 * jnp.pi * hue
    cos, sin, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle), jnp.ones_like(angle)
    rows = [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    middle = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    return jnp.asarray(np.linalg.inv(TO_YIQ)) @ middle @ TO_YIQ
