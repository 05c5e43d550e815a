"""Autoencoders between pixels and the latents that diffusion works on."""

from portrait_jax.autoencoders.causal import CausalAutoencoder, CausalConfig, decode_streamed, encode_streamed
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig, sample_latent
from portrait_jax.autoencoders.temporal_decoder import AutoencoderKLTemporalDecoder
from portrait_jax.autoencoders.tiled import decode_tiled
from portrait_jax.autoencoders.tiny import TinyAutoencoder, TinyConfig

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLTemporalDecoder",
    "CausalAutoencoder",
    "CausalConfig",
    "KLConfig",
    "TinyAutoencoder",
    "TinyConfig",
    "decode_streamed",
    "decode_tiled",
    "encode_streamed",
    "sample_latent",
]
