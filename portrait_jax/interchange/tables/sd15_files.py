"""Stable Diffusion 1.5 as a whole: the pipeline's folders, and the single file of the original and of personalised models."""

from portrait_jax.interchange.layouts import Layout
from portrait_jax.interchange.tables.encoders import SINGLE_TEXT, TEXT_PART
from portrait_jax.interchange.tables.stable_diffusion import (
    AUTOENCODER_PART,
    SINGLE_AUTOENCODER,
    SINGLE_UNET,
    UNET_PART,
)

LAYOUTS = (
    Layout(
        "sd15",
        "Stable Diffusion 1.5's networks in a folder (diffusers)",
        (UNET_PART, AUTOENCODER_PART, TEXT_PART),
        ("sd15_unet", "sd15_vae", "sd15_clip_text"),
    ),
    Layout(
        "sd15_single_file",
        "Stable Diffusion 1.5 in one file, original names (personalised models)",
        (SINGLE_UNET, SINGLE_AUTOENCODER, SINGLE_TEXT),
        ("sd15_single_file",),
        extra_ok=True,
    ),
)
