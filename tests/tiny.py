"""The smallest Follow-Your-Emoji: 32 pixels, latents 4×4×8, two solver steps, windows of four frames; compiles in seconds.

Also a config file: `--config=tests/tiny.py` gives the second stage, `--config=tests/tiny.py:demo_stage1` the first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import follow_your_emoji
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.typing import Array, Params, PyTree

SIZE, LATENT, CHANNELS = 32, 4, 8


def get_config(stage: str = "demo") -> ConfigDict:
    """`configs/follow_your_emoji.py` with small numbers."""
    config = follow_your_emoji.get_config(stage)
    config.model.image_size = config.data.size = SIZE
    config.model.autoencoder.update({"block_out_channels": (8, 8, 8), "norm_groups": 4})
    config.model.portrait_latents = True
    config.model.denoiser.update(
        {
            "block_out_channels": (8, 16),
            "attention_levels": (True, False),
            "num_heads": 2,
            "context_dim": 16,
            "image_prompt_dim": 16,
            "norm_groups": 4,
        }
    )
    config.model.temporal.update(
        {"num_heads": 2, "max_length": 8, "norm_groups": 4, "levels": (1,), "mid": False, "attentions": 1}
    )
    config.model.guider.update({"channels": (4, 8, 8), "out_channels": 8})
    config.model.image_encoder.update({"hidden": 16, "layers": 1, "heads": 2, "mlp": 16, "image_size": 32})
    config.sampling.update(
        {"steps": 2, "window": 4, "overlap": 2, "windows_per_chunk": 2, "guidance": 1.5, "noise_share": 0.2}
    )
    return config


def make_system(stage: str = "demo", **loss: float | bool) -> FollowYourEmoji:
    """The system of `get_config`, with changed loss settings."""
    config = get_config(stage)
    config.loss.update(loss)
    return FollowYourEmoji.from_config(config)


def make_params(system: FollowYourEmoji, seed: int = 0) -> Params:
    """Random parameters in which nothing is zero: an untrained guider or motion module would hide every mistake.

    Drawn by numpy: compiling the initialisers takes longer than all that is done with the result.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
        noise = rng.normal(size=leaf.shape)
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name == "kernel":
            noise /= np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray((name in ("scale", "running_var")) + (1.0 if name == "kernel" else 0.1) * noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(system.init, jax.random.key(0)))


def make_batch(clips: int = 2, frames: int = 3, seed: int = 0) -> dict[str, Array]:
    """A training batch of noise, in the form that `docs/data.md` gives."""
    rng = np.random.default_rng(seed)

    def picture(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (*shape, SIZE, SIZE, 3), dtype=np.uint8)

    def mask() -> np.ndarray:
        return rng.integers(0, 2, (clips, frames, LATENT, LATENT, 1)).astype(np.float32)

    batch = {
        "frames": picture(clips, frames),
        "reference": picture(clips),
        "control": picture(clips, frames),
        "expression_mask": mask(),
        "oval_mask": mask(),
    }
    return jax.tree.map(jnp.asarray, batch)


def leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """`{"subnet/path/to/leaf": array}`."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}
