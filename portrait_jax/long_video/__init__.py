"""How windows, or keyframes and what lies between them, become one long video."""

from portrait_jax.long_video.joint import averaged, denoise_group, sample_joint
from portrait_jax.long_video.overlap import (
    Carry,
    Windows,
    chunk_sampler,
    frame_noise,
    init_carry,
    noise_of,
    plan_windows,
    sample_windows,
)
from portrait_jax.long_video.plan import Plan
from portrait_jax.long_video.prefix import Prefixed, plan_prefixed, sample_prefixed
from portrait_jax.long_video.progressive import Gaps, plan_gaps, sample_gaps
from portrait_jax.long_video.tiles import Tiles, gaussian_tiles, random_offsets, shifted_tiles, wrapped_tiles

__all__ = [
    "Carry", "Gaps", "Plan", "Prefixed", "Tiles", "Windows", "averaged", "chunk_sampler", "denoise_group", "frame_noise",
    "gaussian_tiles", "init_carry", "noise_of", "plan_gaps", "plan_prefixed", "plan_windows", "random_offsets",
    "sample_gaps", "sample_joint", "sample_prefixed", "sample_windows", "shifted_tiles", "wrapped_tiles",
]  # fmt: skip
