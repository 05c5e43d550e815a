"""The smallest task that learns from Grain's batches: codes of procedural performances. Also a config file."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import motion_prior


def get_config(name: str = "vqvae_demo") -> ConfigDict:
    """`configs/motion_prior.py` with small numbers, and no random number that depends on how a batch is spread."""
    config = motion_prior.get_config(name)
    config.model.vqvae.update({"width": 8, "codes": 16, "code_dim": 4})
    config.train.update({"frames": 8, "batch_size": 8, "steps": 8, "checkpoint_every": 4, "log_every": 1})
    config.data.clip_frames = 16
    return config
