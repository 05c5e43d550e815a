"""Autoencoders between pixels and the latents that diffusion works on."""

from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig, sample_latent

__all__ = ["AutoencoderKL", "KLConfig", "sample_latent"]
