"""The smallest HunyuanPortrait: 16 pixels, latents 8×8×4, two solver steps, windows of three frames.

Also a config file: `--config=tests/tiny_hunyuan.py:released`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import hunyuan_portrait
from portrait_jax.systems.hunyuan_portrait import HunyuanPortrait
from portrait_jax.typing import Array

SIZE, FACE, ALIGNED = 16, 32, 16


def get_config(name: str = "released") -> ConfigDict:
    """`configs/hunyuan_portrait.py` with small numbers."""
    config = hunyuan_portrait.get_config(name)
    with config.unlocked(), config.ignore_type():
        model = config.model
        model.image_size, model.face_size = SIZE, FACE
        model.portrait.update({"image_tokens": 3, "encoder_size": 28})
        model.autoencoder.update({"block_out_channels": (8, 8), "layers_per_block": 1, "norm_groups": 4})
        model.denoiser.update(
            {"block_out_channels": (8, 8), "attention_levels": (True, False), "layers_per_block": 1, "norm_groups": 4,
             "num_heads": (1, 2), "context_dim": 16, "id_dim": 4}
        )  # fmt: skip
        model.image_encoder.update(
            {"hidden": 16, "layers": 2, "heads": 2, "mlp": 16, "registers": 1, "grid": 3, "patch": 14}
        )
        model.identity.update({"width": 16, "attention_width": 8, "heads": 2})
        if model.identity.get("blocks", (1,)):
            model.identity.blocks = (1,)
        model.face_recogniser.update({"layers": (1,), "channels": (4,), "embedding": 8, "image_size": ALIGNED})
        model.expression.update({"layers": (1, 1), "channels": (4, 4), "out": 8})
        model.head_pose.update({"layers": (1, 1), "channels": (4, 4), "norm_groups": 2})
        # Tokens are as wide as the backbone's context, angles included where they are told.
        out = 10 if model.portrait.get("head_pose", True) else 16
        model.motion_memory.update(
            {"tokens": 4, "width": 8, "intensity_width": 8, "levels": 16, "layers": 1, "heads": 2, "out": out}
        )
        model.intensity.levels = 16
        model.guider.update({"channels": (4, 4), "out_channels": 8})
        config.sampling.update({"steps": 2, "window": 3, "overlap": 1, "shift": 1, "ends": 1, "decode_chunk": 2})
        if "train" in config:
            config.train.update({"steps": 1, "batch_size": 2, "frames": 2, "warmup_steps": 0})
            config.train.init_from = ConfigDict()
            config.data.update({"size": SIZE, "latent_factor": 2, "clip_frames": 4, "frame_stride": (1, 2)})
        if "teacher" in config:
            taught = config.teacher.model
            taught.image_size = SIZE
            for name in ("autoencoder", "denoiser"):
                taught[name].update({key: value for key, value in model[name].items() if key in taught[name]})
            taught.denoiser.update({"num_heads": 2, "context_dim": 8, "image_prompt_dim": 8})
            taught.guider.update({"channels": (4, 4), "out_channels": 8})
            taught.image_encoder.update({"hidden": 8, "layers": 1, "heads": 2, "mlp": 8, "image_size": 32})
    return config


def make_system(name: str = "released", model: Mapping[str, Any] | None = None, **loss: float) -> HunyuanPortrait:
    """The system of `get_config`, with changed settings of the model and of the loss."""
    config = get_config(name)
    with config.unlocked():
        config.model.update(model or {})
        config.loss.update(loss)
    return HunyuanPortrait.from_config(config)


def picture(*shape: int, seed: int = 0) -> Array:
    """Noise as 8-bit pictures of `shape` (…, h, w)."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


def make_driving(clips: int = 1, frames: int = 2, seed: int = 1) -> dict[str, Array]:
    """What drives it: noise."""
    level = np.random.default_rng(seed).integers(0, 16, (2, clips, frames)).astype(np.int32)
    return {
        "faces": picture(clips, frames, FACE, FACE, seed=seed),
        "heads": picture(clips, frames, FACE, FACE, seed=seed + 1),
        "head_level": jnp.asarray(level[0]),
        "expression_level": jnp.asarray(level[1]),
    }


def make_batch(clips: int = 2, frames: int = 2, seed: int = 3) -> dict[str, Array]:
    """A training batch of noise; `control` is for a teacher."""
    rng = np.random.default_rng(seed)
    return {
        "frames": picture(clips, frames, SIZE, SIZE, seed=seed + 2),
        "reference": picture(clips, SIZE, SIZE, seed=seed + 3),
        "landmarks": jnp.asarray(rng.uniform(2, SIZE - 2, (clips, frames, 478, 3)).astype(np.float32)),
    }


def shapes_of_params(system: HunyuanPortrait):
    """Parameters as shapes."""
    return jax.eval_shape(system.init, jax.random.key(0))
