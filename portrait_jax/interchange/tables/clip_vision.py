"""CLIP's vision encoders as transformers keeps them: three sizes, one map."""

import functools

import jax.numpy as jnp

from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap

VIT_L = CLIPVisionConfig()
VIT_H = CLIPVisionConfig(hidden=1280, layers=32, heads=16, mlp=5120, projection=1024, activation="gelu")
VIT_B = CLIPVisionConfig(hidden=768, layers=12, heads=12, mlp=3072, patch=16, projection=512)

# A counter 0 … tokens−1 that older files store.
CLIP_VISION = KeyMap(ignored=(r"vision_model\.embeddings\.position_ids",))


@functools.cache
def vision_shapes(config: CLIPVisionConfig):
    """The tree of a vision encoder."""
    size = config.image_size
    return shapes_of(CLIPVision(config), lambda: (jnp.zeros((1, size, size, 3)),))


def vision_part(config: CLIPVisionConfig) -> Part:
    """The encoder of one size."""
    return Part(
        "image_encoder",
        CLIP_VISION,
        functools.partial(vision_shapes, config),
        Signature(
            ("vision_model.embeddings.class_embedding", "visual_projection.weight"),
            (r"text_model\.",),
            {
                "vision_model.embeddings.class_embedding": (config.hidden,),
                "visual_projection.weight": (config.projection or 0, config.hidden),
            },
        ),
        "image_encoder",
    )


LAYOUTS = (
    Layout(
        "clip_vision_vit_l",
        "CLIP ViT-L/14 vision encoder (transformers), as SD-image-variations uses it",
        (vision_part(VIT_L),),
        ("sd_image_variations_clip_vision",),
    ),
    Layout(
        "clip_vision_vit_h",
        "CLIP ViT-H/14 vision encoder (transformers), of IP-Adapter and Stable Video Diffusion",
        (vision_part(VIT_H),),
        ("ip_adapter_clip_vision_vit_h",),
    ),
    Layout(
        "clip_vision_vit_b16",
        "CLIP ViT-B/16 vision encoder (transformers)",
        (vision_part(VIT_B),),
        ("clip_vit_b16_vision",),
    ),
)
