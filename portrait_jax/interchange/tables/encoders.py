"""Encoders of text, sound and faces: CLIP text, wav2vec 2.0, ArcFace."""

import functools

import jax.numpy as jnp

from portrait_jax.encoders.arcface import ArcFace, ArcFaceConfig
from portrait_jax.encoders.clip_text import CLIPText
from portrait_jax.encoders.wav2vec2 import Wav2Vec2
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import WEIGHT_NORM, KeyMap


@functools.cache
def text_shapes():
    """The tree of the text encoder."""
    return shapes_of(CLIPText(), lambda: (jnp.zeros((1, 8), jnp.int32),))


@functools.cache
def speech_shapes():
    """The tree of the speech encoder."""
    return shapes_of(Wav2Vec2(), lambda: (jnp.zeros((1, 1600)),))


@functools.cache
def face_shapes(layers: tuple[int, ...]):
    """The tree of a face recogniser."""
    return shapes_of(ArcFace(ArcFaceConfig(layers=layers)), lambda: (jnp.zeros((1, 112, 112, 3)),))


# A counter 0 … 76 that older files store; a level that transformers 5 drops from names in memory.
TEXT_BUFFERS = (r"(cond_stage_model\.transformer\.)?text_model\.embeddings\.position_ids",)
TEXT_LEVEL = r"(embeddings|encoder|final_layer_norm)\."
TEXT_PART = Part(
    "text_encoder",
    KeyMap(aliases=((rf"^{TEXT_LEVEL}", r"text_model.\1."),), ignored=TEXT_BUFFERS),
    text_shapes,
    Signature(
        ("text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight"),
        (r"vision_model\.", r"visual_projection"),
        {"text_model.embeddings.token_embedding.weight": (49408, 768)},
    ),
    "text_encoder",
)
SINGLE = "cond_stage_model.transformer."
SINGLE_TEXT = Part(
    "text_encoder",
    KeyMap(
        SINGLE,
        aliases=((rf"^cond_stage_model\.transformer\.{TEXT_LEVEL}", rf"{SINGLE}text_model.\1."),),
        ignored=TEXT_BUFFERS,
    ),
    text_shapes,
    Signature((f"{SINGLE}text_model.embeddings.token_embedding.weight",)),
)

POSITION_CONV = ".pos_conv_embed.conv."
SPEECH_PART = Part(
    "audio_encoder",
    KeyMap(
        "wav2vec2.",
        # The positional convolution is published as magnitude and direction; older files call them weight_g and weight_v.
        kinds=((r"pos_conv_embed/conv/kernel", WEIGHT_NORM),),
        split=(
            (
                POSITION_CONV + "weight",
                (
                    POSITION_CONV + "parametrizations.weight.original0",
                    POSITION_CONV + "parametrizations.weight.original1",
                ),
            ),
        ),
        aliases=(
            (r"^(feature_extractor\.|feature_projection\.|encoder\.|masked_spec_embed)", r"wav2vec2.\1"),
            (r"\.pos_conv_embed\.conv\.weight_g$", ".pos_conv_embed.conv.parametrizations.weight.original0"),
            (r"\.pos_conv_embed\.conv\.weight_v$", ".pos_conv_embed.conv.parametrizations.weight.original1"),
        ),
        spare=(r"wav2vec2\.masked_spec_embed", r"lm_head\.(weight|bias)"),
    ),
    speech_shapes,
    Signature(
        ("wav2vec2.feature_extractor.conv_layers.0.conv.weight", "wav2vec2.feature_projection.projection.weight"),
        (),
        {"wav2vec2.feature_projection.projection.weight": (768, 512)},
    ),
)


def face_part(layers: tuple[int, ...], last: int) -> Part:
    """A face recogniser; the blocks of its third stage tell the sizes apart."""
    return Part(
        "face_recogniser",
        KeyMap(spare=(r".*\.num_batches_tracked",)),
        functools.partial(face_shapes, layers),
        Signature(
            ("layer1.0.prelu.weight", "features.running_var", f"layer3.{last}.conv1.weight"),
            (rf"layer3\.{last + 1}\.",),
        ),
    )


LAYOUTS = (
    Layout(
        "sd15_text_encoder",
        "CLIP ViT-L/14 text encoder of Stable Diffusion 1.5 (transformers)",
        (TEXT_PART,),
        ("sd15_clip_text",),
    ),
    Layout(
        "wav2vec2_base_960h",
        "wav2vec2-base-960h (transformers), with its CTC head or without",
        (SPEECH_PART,),
        ("wav2vec2_base_960h",),
    ),
    Layout(
        "arcface_iresnet50",
        "ArcFace iResNet-50 (insightface, .pth)",
        (face_part((3, 4, 14, 3), 13),),
        ("arcface_iresnet50",),
    ),
    Layout(
        "arcface_iresnet100",
        "ArcFace iResNet-100 (insightface, .pth)",
        (face_part((3, 13, 30, 3), 29),),
        ("arcface_iresnet100",),
    ),
)
