"""Denoising networks: `unet` is the Stable Diffusion 1.5 UNet with slots."""

from portrait_jax.backbones.unet import UNet, UNetConfig, attention_paths

__all__ = ["UNet", "UNetConfig", "attention_paths"]
