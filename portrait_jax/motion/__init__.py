"""Motion latents as sequences: between key expressions, as codes, and as a prior that goes on from a clip."""

from portrait_jax.motion.interpolation import interpolate, key_positions
from portrait_jax.motion.prior_task import MotionPriorTask
from portrait_jax.motion.vqvae_task import MotionVQTask

__all__ = ["MotionPriorTask", "MotionVQTask", "interpolate", "key_positions"]
