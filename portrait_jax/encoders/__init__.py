"""Pretrained encoders of images, text, audio and motion."""

from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig, clip_pixels

__all__ = ["CLIPVision", "CLIPVisionConfig", "clip_pixels"]
