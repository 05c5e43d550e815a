"""How windows, or keyframes and what lies between them, become one long video."""

from portrait_jax.long_video.joint import averaged, denoise_group, sample_joint
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
from portrait_jax.long_video.prefix import Prefixed, plan_prefixed, prefix_sampler, sample_prefixed
from portrait_jax.long_video.progressive import Gaps, gap_sampler, plan_gaps, sample_gaps
from portrait_jax.long_video.tiles import Tiles, gaussian_tiles, random_offsets, shifted_tiles, wrapped_tiles

__all__ = [
    "Carry", "Gaps", "Plan", "Prefixed", "Tiles", "Windows", "averaged", "denoise_group", "frame_noise", "gap_sampler",
    "gaussian_tiles", "init_carry", "noise_of", "plan_gaps", "plan_prefixed", "plan_windows", "prefix_sampler",
    "random_offsets", "sample_gaps", "sample_joint", "sample_prefixed", "sample_windows", "shifted_tiles", "window_sampler",
    "wrapped_tiles",
]  # fmt: skip
