"""What papers plug into a backbone."""

from portrait_jax.adapters.audio import AudioAttention, AudioConfig, AudioProjection, audio_slot
from portrait_jax.adapters.controlnet import ControlNet, ControlNetConfig
from portrait_jax.adapters.decoupled_motion import copied_from_base, decoupled_motion_slots
from portrait_jax.adapters.identity import IdentityAdapter, IdentityAdapterConfig, identity_adapter
from portrait_jax.adapters.image_prompt import (
    ImagePromptConfig,
    image_projection,
    image_prompt_slot,
    merge_lora,
    split_lora,
)
from portrait_jax.adapters.landmark_guider import LandmarkGuider, LandmarkGuiderConfig
from portrait_jax.adapters.latent_motion import LatentMotionAttention, LatentMotionConfig, latent_motion_slot
from portrait_jax.adapters.motion_memory import MotionMemory, MotionMemoryConfig
from portrait_jax.adapters.reference_masking import mask_reference
from portrait_jax.adapters.t2i_adapter import T2IAdapter, T2IAdapterConfig

__all__ = [
    "AudioAttention",
    "AudioConfig",
    "AudioProjection",
    "ControlNet",
    "ControlNetConfig",
    "IdentityAdapter",
    "IdentityAdapterConfig",
    "ImagePromptConfig",
    "LandmarkGuider",
    "LandmarkGuiderConfig",
    "LatentMotionAttention",
    "LatentMotionConfig",
    "MotionMemory",
    "MotionMemoryConfig",
    "T2IAdapter",
    "T2IAdapterConfig",
    "audio_slot",
    "copied_from_base",
    "decoupled_motion_slots",
    "identity_adapter",
    "image_projection",
    "image_prompt_slot",
    "latent_motion_slot",
    "mask_reference",
    "merge_lora",
    "split_lora",
]
