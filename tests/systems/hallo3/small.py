"""The smallest Hallo3: 16×24 pixels, nine frames, latents 3×4×6×4; compiles in seconds.

Also a config file: `--config=tests/systems/hallo3/small.py:stage2`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import hallo3
from portrait_jax.systems.hallo3 import Hallo3

FRAMES, HEIGHT, WIDTH = 9, 16, 24
FACE, MARGIN = 8, 2
"""Pixels of the face that is recognised; frames of sound around a clip."""


def get_config(name: str = "released") -> ConfigDict:
    """`configs/hallo3.py` with small numbers."""
    config = hallo3.get_config(name)
    # Motion frames with a latent each need a longer clip: 17 frames have five.
    apart = 0 if config.model.motion.together else config.model.motion.frames
    frames = FRAMES if apart <= 3 else 17
    # Where errors of mouths count more, clips are square.
    width = HEIGHT if config.loss.get("mouth") else WIDTH
    with config.unlocked():
        config.model.update({"height": HEIGHT, "width": width, "frames": frames})
        config.model.autoencoder.update(
            {
                "block_out_channels": (4, 4, 8),
                "layers_per_block": 1,
                "latent_channels": 4,
                "norm_groups": 2,
                "patch_size": 1,
            }
        )
        config.model.text_encoder.update(
            {"vocabulary": 20, "width": 12, "layers": 1, "heads": 2, "head_dim": 4, "mlp": 8}
        )
        config.model.audio_encoder.update(
            {"conv_channels": (8,) * 7, "hidden": 8, "layers": 2, "heads": 2, "mlp": 8, "position_kernel": 4,
             "position_groups": 2}
        )  # fmt: skip
        config.model.denoiser.update(
            {"layers": 2, "heads": 2, "head_dim": 16, "in_channels": 8, "out_channels": 4, "text_dim": 12,
             "text_tokens": 3, "time_dim": 16, "mlp": 2, "grid": ((frames + 3) // 4, 2, width // 8)}
        )  # fmt: skip
        config.model.audio.update({"hidden": 8, "tokens": 2, "width": 8})
        config.model.face.update({"tokens": 2, "width": 12})
        config.model.face_recogniser.update({"layers": (1,), "channels": (4,), "embedding": 6, "image_size": FACE})
    config.sampling.update({"steps": 3, "window": frames})
    config.data.update({"size": HEIGHT, "audio_margin": MARGIN if config.data.audio else 0, "face_size": FACE})
    if "train" in config:
        config.train.frames = frames
    return config


def make_system(name: str = "released", **model) -> Hallo3:
    """The system of `get_config`, with other settings of its model; it goes on from as many frames as that says."""
    config = get_config(name)
    with config.unlocked():
        config.model.update(model)
    config.sampling.overlap = config.model.motion.frames
    return Hallo3.from_config(config)


def portrait(seed: int = 0, width: int = WIDTH) -> jax.Array:
    """One picture, u8."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, width, 3), dtype=np.uint8))


def windows(system: Hallo3, frames: int = FRAMES, seed: int = 1) -> jax.Array:
    """Random speech features."""
    speech = system.audio_encoder_config
    shape = (1, frames, system.audio_window, speech.layers, speech.hidden)
    return jax.random.normal(jax.random.key(seed), shape)


def batch(system: Hallo3) -> dict[str, jax.Array]:
    """One training example."""
    rng, frames, width = np.random.default_rng(2), system.frames, system.width
    made = {
        "frames": jnp.asarray(rng.integers(0, 256, (1, frames, HEIGHT, width, 3), dtype=np.uint8)),
        "landmarks": jnp.asarray(rng.uniform(0, HEIGHT, (1, frames, 478, 3)), jnp.float32),
        "reference": portrait(width=width),
        "face_mask": jnp.ones((1, HEIGHT, width)),
        "face": jnp.asarray(rng.integers(0, 256, (1, FACE, FACE, 3), dtype=np.uint8)),
        "identity": jnp.asarray(rng.normal(size=(1, 6)), jnp.float32),
        "text": jnp.asarray(rng.integers(1, 20, (1, 3)), jnp.int32),
        "audio": jnp.asarray(0.1 * rng.normal(size=(1, (frames + 2 * MARGIN) * 640)), jnp.float32),
    }
    if system.precomputed:
        encoded = rng.normal(size=(1, 3, 12))
        made |= {"text": jnp.asarray(encoded, jnp.float32), "audio": windows(system, frames)}
    return {name: made[name] for name in (*system.batch_keys, "text")}
