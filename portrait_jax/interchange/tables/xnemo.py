"""X-NeMo's release: four files of its own, and the two published networks it stands on; also the autoencoder alone.

The temporal modules complete the denoiser: both files become one sub-network.
"""

import functools

import jax.numpy as jnp
import numpy as np

from portrait_jax.adapters.latent_motion import LatentMotionConfig, latent_motion_slot
from portrait_jax.autoencoders.temporal_decoder import AutoencoderKLTemporalDecoder
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders.fan import FANConfig, FANMotionEncoder
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import Filler, KeyMap
from portrait_jax.interchange.tables.animatediff import POSITIONS
from portrait_jax.interchange.tables.clip_vision import VIT_L, vision_part
from portrait_jax.interchange.tables.stable_diffusion import OLD_ATTENTION, unet_shapes
from portrait_jax.nn.embeddings import halves_table
from portrait_jax.nn.temporal import TemporalConfig

TEMPORAL_MODULES = TemporalConfig(name="temporal_modules")
TOKENS = FANConfig().tokens
CONTEXT = 768
"""Width of the image token."""


@functools.cache
def denoiser_shapes():
    """The UNet with motion attention and temporal modules."""
    unet = UNet(UNetConfig(temporal=TEMPORAL_MODULES), (latent_motion_slot(LatentMotionConfig()),))
    motion = Conditioning(motion=jnp.zeros((1, 1, TOKENS, FANConfig().token_dim)))
    return shapes_of(unet, lambda: (jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1), motion))


def reference_shapes():
    """The appearance net."""
    return unet_shapes(UNetConfig(output_head=False), capture=True)


@functools.cache
def motion_encoder_shapes():
    """The motion encoder."""
    size = FANConfig().image_size
    return shapes_of(FANMotionEncoder(), lambda: (jnp.zeros((1, size, size, 3)), jnp.zeros((1, 3))))


@functools.cache
def temporal_autoencoder_shapes():
    """The autoencoder with the temporal decoder."""
    return shapes_of(AutoencoderKLTemporalDecoder(), lambda: (jnp.zeros((1, 32, 32, 3)),))


def unread_shapes(width: int, context: int) -> dict[str, tuple[int, ...]]:
    """The reference net ends at the first norm of its last transformer: the rest of that is published and never matters."""
    block = "transformer_blocks.0"
    shapes = {"proj_out.weight": (width, width, 1, 1), "proj_out.bias": (width,)}
    for name, source in (("attn1", width), ("attn2", context)):
        shapes |= {f"{block}.{name}.to_{part}.weight": (width, source) for part in "kv"}
        shapes |= {f"{block}.{name}.{part}.weight": (width, width) for part in ("to_q", "to_out.0")}
        shapes[f"{block}.{name}.to_out.0.bias"] = (width,)
    shapes |= {f"{block}.norm{i}.{leaf}": (width,) for i in (2, 3) for leaf in ("weight", "bias")}
    for part, (out, inside) in {"0.proj": (8 * width, width), "2": (width, 4 * width)}.items():
        shapes |= {f"{block}.ff.net.{part}.weight": (out, inside), f"{block}.ff.net.{part}.bias": (out,)}
    return shapes


def reference_map(context: int) -> KeyMap:
    """For a width of the image token. All transformers match; what they have themselves is no filler."""

    def zeros(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(unread_shapes(shape[0], context)[name], np.float32)

    norm = r"(.*\.attentions\.\d+)\.transformer_blocks\.0\.norm1\.weight"
    names = unread_shapes(1, 1)
    return KeyMap(fillers=tuple(Filler(norm, rf"\1.{name}", functools.partial(zeros, name)) for name in names))


FIRST = "down_blocks.0.{}.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_k.weight"
MOTION, TEMPORAL = FIRST.format("motion_modules"), FIRST.format("temporal_modules")

DENOISER = Part(
    "denoiser",
    # A dump of the whole network may lie in either file; the temporal modules of the second count.
    KeyMap(ignored=(r".*\.temporal_modules\..*",)),
    denoiser_shapes,
    Signature(("conv_in.weight", MOTION, "conv_out.weight"), (r"clip_fc",), {MOTION: (320, 16)}),
    "xnemo_denoising_unet.pth",
    select=r"(?!.*/temporal_modules_)",
)
TEMPORAL_PART = Part(
    "denoiser",
    KeyMap(fillers=(POSITIONS,), ignored=(r"(?!.*\.temporal_modules\.).*",)),
    denoiser_shapes,
    Signature((TEMPORAL,), (), {TEMPORAL: (320, 320)}),
    "xnemo_temporal_module.pth",
    select=r".*/temporal_modules_\d+/",
)
REFERENCE = Part(
    "reference",
    reference_map(CONTEXT),
    reference_shapes,
    Signature(
        ("conv_in.weight", "up_blocks.3.attentions.2.transformer_blocks.0.norm1.weight"),
        (r"conv_out\.", r"clip_fc", r".*\.(motion|temporal)_modules\.", r"controlnet_"),
        {"conv_in.weight": (320, 4, 3, 3)},
    ),
    "xnemo_reference_unet.pth",
)
MOTION_ENCODER = Part(
    "motion_encoder",
    KeyMap(
        keep=(
            *(f"att_{i}" for i in (1, 2, 3)),
            *(f"b{branch}_{level}" for branch in (1, 2, 3) for level in (1, 2, 3, 4)),
            "b2_plus_1",
            "top_m_0",
        ),
        spare=(r".*\.num_batches_tracked",),
        # A stored table of positions; computed here.
        fillers=(
            Filler(r"bbox_proj\.0\.weight", "pe", lambda shape: halves_table(TOKENS, FANConfig().token_dim)[None]),
        ),
    ),
    motion_encoder_shapes,
    Signature(("model.conv1.weight", "model.m0.b1_4.conv1.weight", "bbox_proj.0.weight", "final_proj.weight")),
    "xnemo_motion_encoder.pth",
)
TEMPORAL_AUTOENCODER = Part(
    "autoencoder",
    KeyMap(aliases=OLD_ATTENTION),
    temporal_autoencoder_shapes,
    Signature(
        ("encoder.conv_in.weight", "decoder.time_conv_out.weight", "quant_conv.weight"),
        (),
        {"encoder.conv_in.weight": (128, 3, 3, 3), "quant_conv.weight": (8, 8, 1, 1)},
    ),
    "vae",
)
SVD_VAE = "stable-video-diffusion-img2vid-xt/vae/diffusion_pytorch_model"
LAYOUTS = (
    Layout(
        "svd_vae",
        "Stable Video Diffusion's autoencoder with temporal decoder (diffusers)",
        (TEMPORAL_AUTOENCODER,),
        ("svd_xt_vae",),
    ),
    Layout(
        "xnemo",
        "X-NeMo's release with its autoencoder and image encoder",
        (DENOISER, TEMPORAL_PART, REFERENCE, MOTION_ENCODER, TEMPORAL_AUTOENCODER, vision_part(VIT_L)),
        (
            "xnemo_denoising_unet.pth",
            "xnemo_temporal_module.pth",
            "xnemo_reference_unet.pth",
            "xnemo_motion_encoder.pth",
            SVD_VAE,
            "sd-image-variations-diffusers/image_encoder/pytorch_model",
        ),
    ),
)
