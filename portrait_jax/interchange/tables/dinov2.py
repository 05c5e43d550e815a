"""DINOv2-large with registers: the original's file and transformers'."""

import functools

import jax.numpy as jnp

from portrait_jax.encoders.dinov2 import DINOv2
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import Fused, KeyMap


@functools.cache
def backbone_shapes():
    """The tree of the encoder."""
    return shapes_of(DINOv2(), lambda: (jnp.zeros((1, 28, 28, 3)),))


QKV = tuple(Fused(rf"\.attn\.{name}_proj\.(weight|bias)$", r".attn.qkv.\1", part, 3) for part, name in enumerate("qkv"))
RENAMES = ((r"\.attn\.out_proj\.", ".attn.proj."),)
FIRST = "blocks.0.attn.qkv.weight"
ADAPTER = r".*\.adapter\."
ORIGINAL = Part(
    "image_encoder",
    KeyMap(renames=RENAMES, fused=QKV, spare=("mask_token",)),
    backbone_shapes,
    Signature(("cls_token", "register_tokens", FIRST), (ADAPTER,), {FIRST: (3072, 1024)}),
    select=r"(?!.*/adapter/)",
)
THEIRS = "encoder.layer.0.attention.q_proj.weight"
TRANSFORMERS = Part(
    "image_encoder",
    KeyMap(
        modules={
            "cls_token": "embeddings.cls_token",
            "pos_embed": "embeddings.position_embeddings",
            "register_tokens": "embeddings.register_tokens",
            "patch_embed.proj": "embeddings.patch_embeddings.projection",
            "norm": "layernorm",
            "blocks": "encoder.layer",
        },
        renames=(
            (r"\.attn\.out_proj\.", ".attention.o_proj."),
            (r"\.attn\.", ".attention."),
            (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
        ),
        # Files from before transformers 5.
        aliases=(
            (r"\.attention\.attention\.query\.", ".attention.q_proj."),
            (r"\.attention\.attention\.key\.", ".attention.k_proj."),
            (r"\.attention\.attention\.value\.", ".attention.v_proj."),
            (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        ),
        spare=(r"embeddings\.mask_token",),
    ),
    backbone_shapes,
    Signature(("embeddings.register_tokens", THEIRS), (), {THEIRS: (1024, 1024)}),
)
LAYOUTS = (
    Layout(
        "dinov2_large_reg4",
        "DINOv2 ViT-L/14 with registers (original)",
        (ORIGINAL,),
        ("dinov2_large_reg4_original",),
    ),
    Layout(
        "dinov2_large_reg4_transformers",
        "DINOv2 ViT-L/14 with registers (transformers)",
        (TRANSFORMERS,),
        ("dinov2_large_reg4_transformers",),
    ),
)
