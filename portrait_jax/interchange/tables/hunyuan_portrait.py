"""HunyuanPortrait's release: seven files of its own, and the autoencoder of Stable Video Diffusion.

The face recogniser, which it takes from another release, is imported on its own (`launch.convert`, ONNX packs).
"""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.adapters.decoupled_motion import decoupled_motion_slots
from portrait_jax.adapters.identity import IdentityAdapterConfig, identity_adapter
from portrait_jax.adapters.motion_memory import MotionMemory
from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders.dinov2 import DINOv2, DINOv2Config
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE
from portrait_jax.encoders.resnet import ResNet, ResNetConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import Filler, Fused, KeyMap
from portrait_jax.interchange.tables import dinov2
from portrait_jax.interchange.tables.follow_your_emoji import GUIDER as DRAWING_GUIDER
from portrait_jax.interchange.tables.xnemo import TEMPORAL_AUTOENCODER

IMAGE_TOKENS, IDENTITY, MOTION = 64, 512, 512
"""Tokens of the portrait; widths of the identity vector and of an expression's feature."""


@functools.cache
def denoiser_shapes():
    """Stable Video Diffusion's UNet with motion attention."""
    config = SVDUNetConfig()
    unet = SVDUNet(config, decoupled_motion_slots(config.num_heads))
    motion = Conditioning(motion=jnp.zeros((1, 1, 1, config.context_dim)))
    return shapes_of(unet, lambda: (jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1), motion))


@functools.cache
def appearance_shapes():
    """The image encoder with its adapters."""
    module = DINOv2(adapter=identity_adapter(IdentityAdapterConfig()))
    return shapes_of(module, lambda: (jnp.zeros((1, 28, 28, 3)), jnp.zeros((1, 1, IDENTITY))))


def projection_shapes():
    """The layer from the image encoder's tokens to the denoiser's."""
    config = DINOv2Config()
    tokens = 1 + config.registers + (224 // config.patch) ** 2
    return shapes_of(nn.Dense(IMAGE_TOKENS), lambda: (jnp.zeros((1, tokens)),))


@functools.cache
def resnet_shapes(config: ResNetConfig):
    """One of the two motion encoders."""
    return shapes_of(ResNet(config), lambda: (jnp.zeros((1, 64, 64, 3)),))


@functools.cache
def memory_shapes():
    """The motion memory."""
    level = jnp.zeros((1, 1), jnp.int32)
    return shapes_of(MotionMemory(), lambda: (jnp.zeros((1, 1, 1, MOTION)), level, level))


def packed(owner: str) -> tuple[Fused, ...]:
    """PyTorch's multi-head attention: queries, keys and values in one tensor."""
    return tuple(
        Fused(rf"\.{owner}\.to_{name}\.(weight|bias)$", rf".{owner}.in_proj_\1", part, 3)
        for part, name in enumerate("qkv")
    )


def packed_out(owner: str) -> tuple[str, str]:
    """Its last layer."""
    return rf"\.{owner}\.to_out\.0\.", f".{owner}.out_proj."


KEYS = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn2.processor.to_k_ip.0.weight"
ADAPTER = "blocks.3.adapter.cross_attn.multihead_attn.in_proj_weight"
DENOISER = Part(
    "denoiser",
    KeyMap(),
    denoiser_shapes,
    Signature(("conv_in.weight", "add_embedding.linear_1.weight", KEYS), (), {KEYS: (320, 1024)}),
    "unet.pth",
)
APPEARANCE = Part(
    "image_encoder",
    KeyMap(
        renames=(*dinov2.RENAMES, packed_out("multihead_attn")),
        fused=(*dinov2.QKV, *packed("multihead_attn")),
        # What was trained here has neither; the original's loader is strict.
        fillers=(
            Filler("cls_token", "mask_token", lambda shape: np.zeros(shape[1:], np.float32)),
            Filler(r"(.*)\.running_var", r"\1.num_batches_tracked", lambda shape: np.zeros((), np.int64)),
        ),
    ),
    appearance_shapes,
    Signature(("cls_token", "register_tokens", ADAPTER), (), {"cls_token": (1, 1, 1024)}),
    "dino.pth",
)
PROJECTION = Part(
    "image_projection",
    KeyMap(),
    projection_shapes,
    Signature(("weight", "bias"), (r".*\.",), {"weight": (64, 261)}),
    "image_proj.pth",
)
EXPRESSION_PART = Part(
    "expression",
    KeyMap("resnet50.", renames=((r"\bbn(\d)\.", r"gn\1."),)),
    functools.partial(resnet_shapes, EXPRESSION),
    Signature(("resnet50.layer1.0.gn3.weight", "resnet50.fc.weight"), (), {"resnet50.fc.weight": (512, 2048)}),
    "expression.pth",
)
HEAD_POSE_PART = Part(
    "head_pose",
    KeyMap("head_pose_net.", renames=((r"\.downsample\.", ".shortcut."),)),
    functools.partial(resnet_shapes, HEAD_POSE),
    Signature(("head_pose_net.layer2.0.shortcut.0.weight", "head_pose_net.fc.weight")),
    "headpose.pth",
)
MEMORY = Part(
    "motion_memory",
    KeyMap(keep=("ln_1", "ln_2"), renames=(packed_out("attn"),), fused=packed("attn")),
    memory_shapes,
    Signature(
        ("position_exp.weight", "connector.latents", "connector.proj_in.weight"), (), {"connector.latents": (64, 768)}
    ),
    "motion_proj.pth",
)
GUIDER = replace(DRAWING_GUIDER, file="pose_guider.pth")
AUTOENCODER = replace(TEMPORAL_AUTOENCODER, file="vae/diffusion_pytorch_model.fp16.safetensors")
PARTS = (DENOISER, APPEARANCE, PROJECTION, EXPRESSION_PART, HEAD_POSE_PART, MEMORY, GUIDER, AUTOENCODER)
LAYOUTS = (
    # Its file is like another release's to the last shape: which of the two it is from, nobody can tell.
    Layout(
        "drawing_guider", "A guider of drawings: Follow-Your-Emoji's, HunyuanPortrait's", (replace(GUIDER, file=""),)
    ),
    Layout(
        "hunyuan_portrait",
        "HunyuanPortrait's release with its autoencoder (no commercial use)",
        PARTS,
        tuple(part.file for part in PARTS),
    ),
)
