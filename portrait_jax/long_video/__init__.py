"""How windows become one long video."""

from portrait_jax.long_video.overlap import (
    Carry,
    Windows,
    frame_noise,
    init_carry,
    plan_windows,
    sample_windows,
    window_sampler,
)

__all__ = [
    "Carry", "Windows", "frame_noise", "init_carry", "plan_windows", "sample_windows", "window_sampler",
]  # fmt: skip
