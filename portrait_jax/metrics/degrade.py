"""Random damage to training images, so that a detector trained on clean renderings judges generated images fairly.

Generated frames are softer, noisier and differently coloured than rendered ones. Each function maps one image (`h w
3`, 0..1) and a key to a damaged image of the same shape; strengths are drawn uniformly from zero up, so that clean
images stay in the mix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.typing import Array, Float, PRNGKeyArray

BLOCK = 8


def colour(rng: PRNGKeyArray, image_01: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Contrast ±30 %, brightness ±0.15, gain of each channel ±10 %."""
    contrast_rng, brightness_rng, gain_rng = jax.random.split(rng, 3)
    contrast = jax.random.uniform(contrast_rng, (), minval=0.7, maxval=1.3)
    brightness = jax.random.uniform(brightness_rng, (), minval=-0.15, maxval=0.15)
    gain = jax.random.uniform(gain_rng, (3,), minval=0.9, maxval=1.1)
    return ((image_01 - 0.5) * contrast + 0.5 + brightness) * gain


def blur(rng: PRNGKeyArray, image_01: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Between no and two passes of a 1-4-6-4-1 kernel (sigma about 1.4 pixels)."""
    soft = _binomial(_binomial(image_01))
    return image_01 + jax.random.uniform(rng) * (soft - image_01)


def lower_resolution(rng: PRNGKeyArray, image_01: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Detail finer than two pixels fades by 0 to 80 %: what an autoencoder of low resolution loses."""
    h, w, c = image_01.shape
    small = image_01.reshape(h // 2, 2, w // 2, 2, c).mean(axis=(1, 3))
    back = jax.image.resize(small, (h, w, c), "bilinear")
    return image_01 + jax.random.uniform(rng, maxval=0.8) * (back - image_01)


def noise(rng: PRNGKeyArray, image_01: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """White noise up to sigma 0.05 and blotches of about eight pixels up to sigma 0.06."""
    h, w, c = image_01.shape
    white_rng, blotch_rng, strength_rng = jax.random.split(rng, 3)
    white, blotch = jax.random.uniform(strength_rng, (2,)) ** 2 * jnp.array([0.05, 0.06])
    blotches = jax.image.resize(jax.random.normal(blotch_rng, (h // BLOCK, w // BLOCK, c)), (h, w, c), "bilinear")
    return image_01 + white * jax.random.normal(white_rng, image_01.shape) + blotch * blotches


def compression(rng: PRNGKeyArray, image_01: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Rounds the cosine coefficients of 8×8 blocks, coarser at high frequencies, as JPEG and video encoders do."""
    h, w, c = image_01.shape
    basis = jnp.asarray(_cosine_basis())
    blocks = image_01.reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK, c)
    coefficients = jnp.einsum("ui,aibjc,vj->aubvc", basis, blocks, basis)
    strength = jax.random.uniform(rng) ** 2 * 0.06 + 1e-4
    frequency = jnp.arange(BLOCK)
    step = (strength * (1 + frequency[:, None] + frequency[None, :]))[None, :, None, :, None]
    rounded = jnp.round(coefficients / step) * step
    return jnp.einsum("ui,aubvc,vj->aibjc", basis, rounded, basis).reshape(h, w, c)


STEPS = (colour, blur, lower_resolution, noise, compression)


def degrade(rng: PRNGKeyArray, image_01: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """All kinds of damage one after the other, clipped to 0..1. Height and width must be multiples of 8."""
    for key, step in zip(jax.random.split(rng, len(STEPS)), STEPS, strict=True):
        image_01 = step(key, image_01)
    return jnp.clip(image_01, 0.0, 1.0)


def rescale(
    rng: PRNGKeyArray, image_01: Float[Array, "h w 3"], points_01: Float[Array, "p 2"]
) -> tuple[Float[Array, "h w 3"], Float[Array, "p 2"]]:
    """Zooms by 0.85 to 1.15 and shifts by up to 8 %; points (0..1 of width and height) move along."""
    h, w, _ = image_01.shape
    zoom_rng, shift_rng = jax.random.split(rng)
    zoom = jax.random.uniform(zoom_rng, (), minval=0.85, maxval=1.15)
    shift = jax.random.uniform(shift_rng, (2,), minval=-0.08, maxval=0.08) + (1 - zoom) / 2
    size = jnp.array([w, h])
    inside = jax.image.scale_and_translate(
        image_01 - 0.5, image_01.shape, (0, 1), jnp.stack([zoom, zoom]), (shift * size)[::-1], "linear", antialias=False
    )
    return inside + 0.5, points_01 * zoom + shift


def _binomial(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    for axis in (0, 1):
        pad = [(2, 2) if k == axis else (0, 0) for k in range(3)]
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        taps = [jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(5)]
        image = (taps[0] + 4 * taps[1] + 6 * taps[2] + 4 * taps[3] + taps[4]) / 16
    return image


def _cosine_basis() -> np.ndarray:
    """Orthonormal DCT-II matrix of one block: row = frequency."""
    k, n = np.mgrid[:BLOCK, :BLOCK]
    basis = np.cos(np.pi * (2 * n + 1) * k / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
