"""Follow-Your-Emoji's release: three files of its own, and the two published networks it stands on.

Files lie as the release's program expects them below its checkpoint folder; they are also found side by side.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from portrait_jax.adapters.landmark_guider import LandmarkGuider
from portrait_jax.backbones.unet import UNetConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import Filler, KeyMap
from portrait_jax.interchange.tables.animatediff import POSITIONS
from portrait_jax.interchange.tables.clip_vision import VIT_L, vision_part
from portrait_jax.interchange.tables.stable_diffusion import AUTOENCODER_PART, unet_shapes
from portrait_jax.nn.temporal import TemporalConfig

TOKENS = 1024
"""Width of the image tokens that `clip_fc` reads."""

# The reference net ends inside its last transformer, whose output projection is published but never called: the only one
# that is missing here, whatever the number of levels and layers.
UNUSED = Filler(
    r"(.*\.attentions\.\d+)\.proj_in\.(weight|bias)",
    r"\1.proj_out.\2",
    lambda shape: np.zeros(shape, np.float32),
)


def denoiser_shapes():
    """The UNet with motion modules."""
    return unet_shapes(UNetConfig(image_prompt_dim=TOKENS, temporal=TemporalConfig()))


def reference_shapes():
    """The appearance net."""
    return unet_shapes(UNetConfig(image_prompt_dim=TOKENS, output_head=False), capture=True)


def guider_shapes():
    """The landmark guider."""
    return shapes_of(LandmarkGuider(), lambda: (jnp.zeros((1, 1, 16, 16, 3)),))


DENOISER = Part(
    "denoiser",
    KeyMap(fillers=(POSITIONS,)),
    denoiser_shapes,
    Signature(("conv_in.weight", "clip_fc.weight", "conv_out.weight"), (), {"conv_in.weight": (320, 4, 3, 3)}),
    "follow-your-emoji/unet.pth",
)
REFERENCE = Part(
    "reference",
    KeyMap(fillers=(UNUSED,)),
    reference_shapes,
    Signature(
        ("conv_in.weight", "clip_fc.weight"),
        (r"conv_out\.", r".*\.motion_modules\."),
        {"conv_in.weight": (320, 4, 3, 3)},
    ),
    "follow-your-emoji/referencenet.pth",
)
GUIDER = Part(
    "guider",
    KeyMap(),
    guider_shapes,
    Signature(
        ("conv_in.weight", "blocks.5.weight", "conv_out.weight"),
        (r"(down|up|mid)_blocks?\.", r"conditioning_", r"cross_attn"),
        {"conv_in.weight": (16, 3, 3, 3), "conv_out.weight": (320, 256, 3, 3)},
    ),
    "follow-your-emoji/lmk_guider.pth",
)
AUTOENCODER = replace(AUTOENCODER_PART, file="sd-vae-ft-mse")
IMAGE_ENCODER = replace(vision_part(VIT_L), file="sd-image-variations-diffusers/image_encoder")
LAYOUTS = (
    Layout(
        "follow_your_emoji",
        "Follow-Your-Emoji's release with its autoencoder and image encoder",
        (DENOISER, REFERENCE, GUIDER, AUTOENCODER, IMAGE_ENCODER),
        (
            "follow-your-emoji/unet.pth",
            "follow-your-emoji/referencenet.pth",
            "follow-your-emoji/lmk_guider.pth",
            "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
            "sd-image-variations-diffusers/image_encoder/pytorch_model.bin",
        ),
    ),
)
