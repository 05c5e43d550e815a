"""Stable Diffusion 1.5: diffusers' files, and the original single file that personalised models come in.

The original UNet numbers its blocks through (CompVis `openaimodel.py`): every residual block with its transformer, and every
change of resolution, is one entry of `input_blocks` or `output_blocks`.
"""

import functools

import jax.numpy as jnp

from portrait_jax.autoencoders.kl import AutoencoderKL
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import POINTWISE, KeyMap

LEVELS, LAYERS = range(4), 2
BASE = UNetConfig()


@functools.cache
def unet_shapes(config=BASE, **options):
    """The tree of a UNet, two-dimensional or not; cached, since tracing one takes seconds."""
    return shapes_of(UNet(config), lambda: (jnp.zeros((1, 1, 8, 8, config.in_channels)), jnp.zeros(1)), **options)


@functools.cache
def autoencoder_shapes():
    """The tree of the image autoencoder."""
    return shapes_of(AutoencoderKL(), lambda: (jnp.zeros((1, 32, 32, 3)),))


BASE_LEAVES = r"(?!.*(motion_modules|temporal_modules|audio_attention|/processor/)|clip_fc|place_embedding)"
"""Of a UNet that a system has added to: what Stable Diffusion publishes."""

UNET = KeyMap()
# Files from before diffusers 0.17 call the projections of the autoencoder's attention so.
OLD_ATTENTION = (
    (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
    (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
    (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
    (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
)
AUTOENCODER = KeyMap(aliases=OLD_ATTENTION)

UNET_PART = Part(
    "denoiser",
    UNET,
    unet_shapes,
    Signature(
        ("conv_in.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", "conv_out.weight"),
        (r"clip_fc", r".*\.(motion_modules|temporal_modules|temporal_transformer_blocks)\.", r"controlnet_"),
        {
            "conv_in.weight": (320, 4, 3, 3),
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        },
    ),
    "unet",
    select=BASE_LEAVES,
)
AUTOENCODER_PART = Part(
    "autoencoder",
    AUTOENCODER,
    autoencoder_shapes,
    Signature(
        ("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight", "post_quant_conv.weight"),
        (r".*time_mixer",),
        {"encoder.conv_in.weight": (128, 3, 3, 3), "quant_conv.weight": (8, 8, 1, 1)},
    ),
    "vae",
)

# The original's names inside a residual block of the UNet.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def resnet(ours: str, theirs: str, names=RESNET) -> dict[str, str]:
    """The layers of one residual block."""
    return {f"{ours}.{name}": f"{theirs}.{original}" for name, original in names.items()}


def encoder_modules() -> dict[str, str]:
    """What the UNet's encoder and middle, and so a ControlNet too, are called in the original."""
    modules = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        **resnet("mid_block.resnets.0", "middle_block.0"),
        "mid_block.attentions.0": "middle_block.1",
        **resnet("mid_block.resnets.1", "middle_block.2"),
    }
    for i in LEVELS:
        for j in range(LAYERS):
            block = f"input_blocks.{1 + (LAYERS + 1) * i + j}"
            modules |= resnet(f"down_blocks.{i}.resnets.{j}", f"{block}.0")
            modules[f"down_blocks.{i}.attentions.{j}"] = f"{block}.1"
        modules[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{(LAYERS + 1) * (i + 1)}.0.op"
    return modules


def unet_modules() -> dict[str, str]:
    """The whole UNet. A decoder level without transformer has its upsampler one place earlier."""
    modules = encoder_modules() | {"conv_norm_out": "out.0", "conv_out": "out.2"}
    for i in LEVELS:
        for j in range(LAYERS + 1):
            block = f"output_blocks.{(LAYERS + 1) * i + j}"
            modules |= resnet(f"up_blocks.{i}.resnets.{j}", f"{block}.0")
            modules[f"up_blocks.{i}.attentions.{j}"] = f"{block}.1"
        last = f"output_blocks.{(LAYERS + 1) * i + LAYERS}"
        modules[f"up_blocks.{i}.upsamplers.0"] = f"{last}.{1 if i == 0 else 2}"
    return modules


def autoencoder_modules() -> dict[str, str]:
    """The image autoencoder; the original counts the decoder's levels from the finest."""
    modules: dict = {}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.mid_block.resnets.{j}": f"{half}.mid.block_{j + 1}" for j in range(2)}
        modules |= resnet(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1", attention)
        modules[f"{half}.conv_norm_out"] = f"{half}.norm_out"
    for i in LEVELS:
        sides = (
            ("encoder.down_blocks", "encoder.down", i, LAYERS),
            ("decoder.up_blocks", "decoder.up", 3 - i, LAYERS + 1),
        )
        for ours, theirs, level, layers in sides:
            for j in range(layers):
                modules[f"{ours}.{i}.resnets.{j}"] = f"{theirs}.{level}.block.{j}"
                modules[f"{ours}.{i}.resnets.{j}.conv_shortcut"] = f"{theirs}.{level}.block.{j}.nin_shortcut"
        modules[f"encoder.down_blocks.{i}.downsamplers.0"] = f"encoder.down.{i}.downsample"
        modules[f"decoder.up_blocks.{i}.upsamplers.0"] = f"decoder.up.{3 - i}.upsample"
    return modules


NOT_WEIGHTS = (r"model_ema\..*", r"(alphas|betas|sqrt|log|posterior)_?.*", r"model\.diffusion_model\.label_emb\..*")
SINGLE_UNET = Part(
    "denoiser",
    KeyMap("model.diffusion_model.", modules=unet_modules(), ignored=NOT_WEIGHTS),
    unet_shapes,
    Signature(
        ("model.diffusion_model.input_blocks.0.0.weight",),
        (r"model\.diffusion_model\.mixins\.",),
        {
            "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
            "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        },
    ),
    select=BASE_LEAVES,
)
SINGLE_AUTOENCODER = Part(
    "autoencoder",
    KeyMap(
        "first_stage_model.",
        modules=autoencoder_modules(),
        kinds=((r"attentions_0/to_(q|k|v|out_0)/kernel", POINTWISE),),
        aliases=(
            (r"(first_stage_model\..*\.mid\.attn_1)\.to_(q|k|v)\.", r"\1.\2."),
            (r"(first_stage_model\..*\.mid\.attn_1)\.to_out\.0\.", r"\1.proj_out."),
        ),
        ignored=(r"first_stage_model\.(loss|model_ema)\..*",),
    ),
    autoencoder_shapes,
    Signature(("first_stage_model.encoder.conv_in.weight", "first_stage_model.decoder.conv_out.weight")),
)

LAYOUTS = (
    Layout(
        "sd15_unet", "Stable Diffusion 1.5's UNet, or SD-image-variations' (diffusers)", (UNET_PART,), ("sd15_unet",)
    ),
    Layout(
        "sd15_vae",
        "Stable Diffusion 1.5's autoencoder, or sd-vae-ft-mse (diffusers)",
        (AUTOENCODER_PART,),
        ("sd15_vae",),
    ),
)
