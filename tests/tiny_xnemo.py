"""The smallest X-NeMo: 16 pixels, face crops of 16, windows of three frames, two solver steps.

Also a config file: `--config=tests/tiny_xnemo.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import xnemo
from portrait_jax.systems.xnemo import XNemo

SIZE, FACE, WIDTH = 16, 16, 8
"""Sides of pictures and face crops in pixels, and numbers of a motion latent."""


def get_config(name: str = "released") -> ConfigDict:
    """The release's config with small numbers and a decoder that works frame by frame."""
    config = xnemo.get_config(name)
    with config.unlocked():
        config.model.image_size = SIZE
        config.model.temporal_decoder = False
        config.model.autoencoder.update(
            {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_groups": 4, "mid_attention": False}
        )
        config.model.denoiser.update(
            {"block_out_channels": (8, 8), "attention_levels": (True, False), "layers_per_block": 1, "num_heads": 2,
             "context_dim": 8, "norm_groups": 4}
        )  # fmt: skip
        config.model.temporal.update({"num_heads": 2, "max_length": 4, "norm_groups": 4, "attentions": 1})
        config.model.motion.update({"num_heads": 2, "norm_groups": 4, "attentions": 1})
        config.model.motion_encoder.update(
            {"image_size": FACE, "channels": (8, 8, 8), "depth": 1, "attention_dim": 32, "attention_heads": 2,
             "heatmaps": 4, "latent_dim": WIDTH, "tokens": 2, "box_dim": 4, "norm_groups": 4}
        )  # fmt: skip
        config.model.image_encoder.update(
            {"hidden": 8, "layers": 1, "heads": 2, "mlp": 8, "patch": 8, "image_size": 16, "projection": 8}
        )
        config.sampling.update({"steps": 2, "strategy": "overlap", "window": 3, "overlap": 1, "windows_per_chunk": 2})
    return config


def make_system(face: int = FACE, **sampling: float | str) -> XNemo:
    """The system of `get_config`, with crops of another side and changed sampling settings."""
    config = get_config()
    with config.unlocked():
        config.model.motion_encoder.image_size = face
        config.sampling.update(sampling)
    return XNemo.from_config(config)
