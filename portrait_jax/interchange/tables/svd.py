"""Stable Video Diffusion: the UNet of SVD-XT as diffusers publishes it; its autoencoder stands in `xnemo.py`'s table."""

import functools

import jax.numpy as jnp

from portrait_jax.backbones.svd_unet import SVDUNet
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap


@functools.cache
def unet_shapes():
    """The tree of the UNet."""
    return shapes_of(SVDUNet(), lambda: (jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1)))


KEYS = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn2.to_k.weight"
PROCESSOR = r".*\.processor\."
UNET_PART = Part(
    "denoiser",
    KeyMap(),
    unet_shapes,
    Signature(
        ("conv_in.weight", "add_embedding.linear_1.weight", KEYS),
        (PROCESSOR,),
        {"conv_in.weight": (320, 8, 3, 3), KEYS: (320, 1024)},
    ),
    "unet",
    select=r"(?!.*/processor/)",
)
LAYOUTS = (Layout("svd_xt_unet", "Stable Video Diffusion XT's UNet (diffusers)", (UNET_PART,), ("svd_xt_unet",)),)
