"""The system at the sizes of golden files, with networks that no file describes at the least possible size."""

from __future__ import annotations

import jax.numpy as jnp

from portrait_jax.adapters.identity import IdentityAdapterConfig
from portrait_jax.adapters.landmark_guider import LandmarkGuiderConfig
from portrait_jax.adapters.motion_memory import MotionMemoryConfig
from portrait_jax.autoencoders import KLConfig
from portrait_jax.backbones.svd_unet import SVDUNetConfig
from portrait_jax.encoders.arcface import ArcFaceConfig
from portrait_jax.encoders.dinov2 import DINOv2Config
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE
from portrait_jax.systems.hunyuan_portrait import HunyuanPortrait
from portrait_jax.systems.hunyuan_settings import LossConfig, PortraitConfig
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.training.aligned import COLOURS


def system(width: int, **changes) -> HunyuanPortrait:
    """A system whose tokens are `width` wide; `changes` are its fields."""
    small = ArcFaceConfig(layers=(1,), channels=(4,), embedding=512, image_size=16)
    fields: dict = {
        "autoencoder_config": KLConfig((32, 32), 1),
        "denoiser_config": SVDUNetConfig(
            block_out_channels=(32,), attention_levels=(True,), num_heads=1, layers_per_block=1, context_dim=width,
            over_time="mean",
        ),
        "image_encoder_config": DINOv2Config(hidden=width, layers=1, heads=1, mlp=width, plain_offset=0.1),
        "identity_config": IdentityAdapterConfig(blocks=(0,)),
        "recogniser_config": small,
        "expression_config": EXPRESSION,
        "head_pose_config": HEAD_POSE,
        "memory_config": MotionMemoryConfig(out=width - 6),
        "guider_config": LandmarkGuiderConfig((16, 16), 32),
        "portrait": PortraitConfig(),
        "loss_config": LossConfig(),
        "augment_config": COLOURS,
        "sampling": SamplingConfig(solver="euler", steps=25, window=25, overlap=3, portrait_guidance=2.0, guidance=2.0),
        "stages": {},
        "image_size": 32,
        "face_size": 32,
        "dtype": jnp.float32,
    }  # fmt: skip
    return HunyuanPortrait(**(fields | changes))
