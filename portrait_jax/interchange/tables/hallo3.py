"""Hallo3's release: one file with denoiser, projections and reference transformer, and the published networks it stands on."""

import functools
from dataclasses import replace

import jax.numpy as jnp

from portrait_jax.adapters.audio_projection import AudioProjection
from portrait_jax.adapters.frame_attention import frame_slot
from portrait_jax.adapters.image_prompt import ImagePromptConfig, PlainProjection
from portrait_jax.backbones.cogvideox import CogVideoXConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap
from portrait_jax.interchange.tables.cogvideox import (
    ORIGINAL_AUTOENCODER,
    PREFIX,
    original_map,
    plain_shapes,
    transformer_shapes,
)
from portrait_jax.interchange.tables.encoders import SPEECH_PART
from portrait_jax.interchange.tables.t5 import PROMPT_PART
from portrait_jax.typing import PyTree

FILE = "hallo3/1/mp_rank_00_model_states.pt"
REFERENCE_PREFIX = "ref_model.diffusion_model."
FACE = ImagePromptConfig(kind="plain", tokens=4, width=1024)
IDENTITY = 512
"""Width of the face recogniser's vector."""
WINDOW, SPEECH_LAYERS, SPEECH_WIDTH = 5, 12, 768


@functools.cache
def denoiser_shapes() -> PyTree:
    """The transformer with attention to a person's and to each frame's sound tokens."""
    heads = CogVideoXConfig().heads
    slots = frame_slot("face", "image_tokens", heads), frame_slot("audio", "audio", heads)
    return transformer_shapes(slots, image_tokens=(1, FACE.tokens, FACE.width), audio=(1, 1, 32, SPEECH_WIDTH))


@functools.cache
def audio_projection_shapes() -> PyTree:
    """The tree of the audio projection."""
    return shapes_of(AudioProjection(), lambda: (jnp.zeros((1, 1, WINDOW, SPEECH_LAYERS, SPEECH_WIDTH)),))


@functools.cache
def face_projection_shapes() -> PyTree:
    """The tree of the projection of the identity vector."""
    return shapes_of(PlainProjection(FACE), lambda: (jnp.zeros((1, IDENTITY)),))


def denoiser_map(config: CogVideoXConfig | None = None) -> KeyMap:
    """The denoiser's names at any size; the projections beside it, and frozen networks in dumps of the whole, are others'."""
    projections = rf"{PREFIX}transformer.(audio|face)_proj.".replace(".", r"\.")
    frozen = r"(first_stage_model|conditioner)\..*"
    return original_map(PREFIX, config, ("face", "audio"), (projections + ".*", frozen))


POSITIONS, QUERY = "mixins.pos_embed.pos_embedding", "transformer.layers.0.{}.weight"
DENOISER = Part(
    "denoiser",
    denoiser_map(),
    denoiser_shapes,
    Signature(
        (f"{PREFIX}{POSITIONS}", PREFIX + QUERY.format("face_attn.query"), PREFIX + QUERY.format("audio_attn.query")),
        (),
        {f"{PREFIX}{POSITIONS}": (1, 17776, 3072)},
    ),
    FILE,
)
REFERENCE = Part(
    "reference",
    original_map(REFERENCE_PREFIX),
    plain_shapes,
    Signature(
        (f"{REFERENCE_PREFIX}{POSITIONS}",),
        (),
        {f"{REFERENCE_PREFIX}{POSITIONS}": (1, 17776, 3072)},
    ),
    FILE,
)
AUDIO_PROJECTION = Part(
    "audio_projection",
    KeyMap(f"{PREFIX}transformer.audio_proj."),
    audio_projection_shapes,
    Signature((f"{PREFIX}transformer.audio_proj.conv1.weight",)),
    FILE,
)
FACE_PROJECTION = Part(
    "face_projection",
    KeyMap(f"{PREFIX}transformer.face_proj."),
    face_projection_shapes,
    Signature((f"{PREFIX}transformer.face_proj.proj.weight",)),
    FILE,
)
LAYOUTS = (
    Layout(
        "hallo3",
        "Hallo3's release with its autoencoder, text and speech encoders",
        (
            DENOISER,
            AUDIO_PROJECTION,
            FACE_PROJECTION,
            REFERENCE,
            ORIGINAL_AUTOENCODER,
            replace(PROMPT_PART, file="t5-v1_1-xxl"),
            replace(SPEECH_PART, file="wav2vec/wav2vec2-base-960h"),
        ),
        (
            FILE,
            "cogvideox-5b-i2v-sat/vae/3d-vae.pt",
            "t5-v1_1-xxl (T5EncoderModel)",
            "wav2vec2_base_960h",
        ),
    ),
)
