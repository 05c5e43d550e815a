"""How windows, or keyframes and what lies between them, become one long video."""

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
from portrait_jax.long_video.plan import Plan
from portrait_jax.long_video.progressive import Gaps, gap_sampler, plan_gaps, sample_gaps

__all__ = [
    "Carry", "Gaps", "Plan", "Tiles", "Windows", "frame_noise", "gap_sampler", "gaussian_tiles", "init_carry", "joint_steps",
    "noise_of", "plan_gaps", "plan_windows", "sample_gaps", "sample_windows", "window_sampler", "wrapped_tiles",
]  # fmt: skip
