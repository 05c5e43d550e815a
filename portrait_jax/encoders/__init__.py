"""Pretrained encoders of images, text, audio and motion."""

from portrait_jax.encoders.arcface import ArcFace, ArcFaceConfig
from portrait_jax.encoders.clip_text import CLIPText, CLIPTextConfig
from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig, clip_pixels
from portrait_jax.encoders.fan import FANConfig, FANMotionEncoder
from portrait_jax.encoders.t5 import T5Config, T5Encoder
from portrait_jax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config, normalise_waveform

__all__ = [
    "ArcFace",
    "ArcFaceConfig",
    "CLIPText",
    "CLIPTextConfig",
    "CLIPVision",
    "CLIPVisionConfig",
    "FANConfig",
    "FANMotionEncoder",
    "T5Config",
    "T5Encoder",
    "Wav2Vec2",
    "Wav2Vec2Config",
    "clip_pixels",
    "normalise_waveform",
]
