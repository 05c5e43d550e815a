"""How windows become one long video."""

from portrait_jax.long_video.joint import Tiles, gaussian_tiles, joint_steps, wrapped_tiles
from portrait_jax.long_video.overlap import (
    Carry,
    Windows,
    frame_noise,
    init_carry,
    noise_of,
    plan_windows,
    sample_windows,
    window_sampler,
)

__all__ = [
    "Carry", "Tiles", "Windows", "frame_noise", "gaussian_tiles", "init_carry", "joint_steps", "noise_of",
    "plan_windows", "sample_windows", "window_sampler", "wrapped_tiles",
]  # fmt: skip
