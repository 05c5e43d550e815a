"""Animates a portrait by a clip, all in memory: for notebooks and metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from portrait_jax.animation.animator import Animator
from portrait_jax.animation.drivers import driver_of
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip
from portrait_jax.systems.system import System
from portrait_jax.typing import Float, Image, Params, UInt8, Video


def animate_clip(
    system: System,
    params: Params,
    portrait: Image,
    reference_landmarks: Float[np.ndarray, "478 3"],
    driving_landmarks: Float[np.ndarray, "f 478 3"],
    driving_frames: UInt8[np.ndarray, "f H W 3"] | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    align: bool = True,
    animator: Animator | None = None,
    driving_size: tuple[int, int] | None = None,
    expression: Float[np.ndarray, " f"] | None = None,
    bundle: Callable[[], Path] | None = None,
) -> Video:
    """Animates a portrait by a clip whose landmarks are known.

    Args:
        portrait: u8 "h w 3" at `system.image_size`.
        reference_landmarks: in pixels of the portrait.
        driving_landmarks: in pixels of the driver's frames; with `align` motion is moved onto the portrait's face as
            `sampling.alignment` says, otherwise it is taken as it is.
        driving_frames: the driver's pictures, of any size, which systems that are driven by faces need.
        animator: a compiled one to use again; then `steps` and `guidance` are its own.
        driving_size, expression: of the driver's frames, see `animation.motion.clip_alignment`.
        bundle: where MediaPipe's face model is, for the alignment "metric"; None: `face.detector.model_path`.

    Returns:
        u8 "f h w 3".

    Raises:
        ConfigError: if the system needs more of the driver than is given.
    """
    animator = animator or Animator(system, params, steps, guidance)
    alignment = system.sampling.alignment if align else "none"
    clip = Clip(driving_landmarks, driving_frames, driving_size if align else None, expression, bundle)
    signals = driver_of(system).clip(system, Portrait(portrait, reference_landmarks), clip, alignment)
    count = len(driving_landmarks)
    return np.concatenate([frames for frames, _ in animator.frames(portrait, signals, count, seed=seed)])
