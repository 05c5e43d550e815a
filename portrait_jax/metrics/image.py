"""Distances between images: L1, PSNR and SSIM, each averaged over all given frames.

Images are uint8 0..255 or floats 0..1 and are compared as floats 0..1. All functions are numpy: metrics run on
results that have left the accelerator. Result and truth are `*n h w c` of one shape; anything else raises
`ShapeError` with both shapes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from portrait_jax.errors import ShapeError

_SSIM_RADIUS = 5
_SSIM_SIGMA = 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2


def as_float01(images: Num[np.ndarray, "*n h w c"]) -> Float[np.ndarray, "*n h w c"]:
    """uint8 0..255 → float64 0..1; floats are taken to be 0..1 already."""
    images = np.asarray(images)
    return images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)


def l1(result: Num[np.ndarray, "..."], truth: Num[np.ndarray, "..."]) -> float:
    """Mean absolute difference, 0 (equal) to 1."""
    result, truth = _pair(result, truth)
    return float(np.abs(result - truth).mean())


def psnr(result: Num[np.ndarray, "..."], truth: Num[np.ndarray, "..."], *, cap: float = 100.0) -> float:
    """Peak signal-to-noise ratio in dB, computed per frame and then averaged; equal frames count as `cap`."""
    result, truth = _pair(result, truth)
    error = ((result - truth) ** 2).mean(axis=(-3, -2, -1))
    floor = 10 ** (-cap / 10)
    return float((-10 * np.log10(np.maximum(error, floor))).mean())


def ssim(result: Num[np.ndarray, "..."], truth: Num[np.ndarray, "..."]) -> float:
    """Structural similarity, -1 to 1 (equal): Gaussian window 11×11, sigma 1.5, no padding, mean over all channels.

    Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004, section III-B;
    weighted moments without the sample correction, as there.
    """
    result, truth = _pair(result, truth)
    mean_r, mean_t = _blur(result), _blur(truth)
    var_r = _blur(result**2) - mean_r**2
    var_t = _blur(truth**2) - mean_t**2
    covariance = _blur(result * truth) - mean_r * mean_t
    luminance = (2 * mean_r * mean_t + _SSIM_C1) / (mean_r**2 + mean_t**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (var_r + var_t + _SSIM_C2)
    return float((luminance * structure).mean())


def _blur(images: Float[np.ndarray, "*n h w c"]) -> Float[np.ndarray, "*n hv wv c"]:
    offsets = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    kernel = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    kernel /= kernel.sum()
    for axis in (-3, -2):
        valid = images.shape[axis] - 2 * _SSIM_RADIUS
        shifted = (np.take(images, np.arange(k, k + valid), axis=axis) * weight for k, weight in enumerate(kernel))
        images = sum(shifted)
    return images


def _pair(result, truth):
    """Both as float 0..1, or a `ShapeError` with both shapes."""
    if np.shape(result) != np.shape(truth):
        raise ShapeError(f"the result has shape {np.shape(result)}, the truth {np.shape(truth)}; they must be equal")
    if min(np.shape(truth)[-3:-1]) < 2 * _SSIM_RADIUS + 1:
        raise ShapeError(f"images of shape {np.shape(truth)} are smaller than the 11×11 window of the metrics")
    return as_float01(result), as_float01(truth)
