"""Autoencoders between pixels and the latents that diffusion works on."""

from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig, sample_latent
from portrait_jax.autoencoders.temporal_decoder import AutoencoderKLTemporalDecoder
from portrait_jax.autoencoders.tiny import TinyAutoencoder, TinyConfig

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLTemporalDecoder",
    "KLConfig",
    "TinyAutoencoder",
    "TinyConfig",
    "sample_latent",
]
