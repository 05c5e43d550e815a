"""The smallest AnyExpress: 32 pixels, latents 4×4×8, two solver steps, windows of four frames of which one is the prefix.

Also a config file: `--config=tests/tiny_anyexpress.py:demo_stage1`.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import anyexpress
from portrait_jax.systems.anyexpress import AnyExpress
from portrait_jax.typing import Array

SIZE, LATENT, CHANNELS = 32, 4, 8
FRAMES, MARGIN = 3, 2


def get_config(stage: str = "demo") -> ConfigDict:
    """`configs/anyexpress.py` at demo size with small numbers."""
    config = anyexpress.get_config(stage)
    model = config.model
    model.image_size = config.data.size = SIZE
    model.autoencoder.update({"block_out_channels": (8, 8, 8), "norm_groups": 4})
    model.denoiser.update(
        {"block_out_channels": (8, 16), "attention_levels": (True, False), "context_dim": 16, "norm_groups": 4}
    )
    model.temporal.update({"num_heads": 2, "max_length": 8, "norm_groups": 4, "attentions": 1})
    model.text_encoder.update({"vocabulary": 8, "positions": 3, "hidden": 16, "mlp": 16})
    model.image_encoder.update({"hidden": 16, "layers": 2, "heads": 2, "mlp": 16, "image_size": 32})
    model.image_prompt.update({"tokens": 2, "width": 16, "head_size": 8})
    model.audio_encoder.update(
        {"conv_channels": (4,) * 7, "hidden": 8, "layers": 2, "heads": 2, "mlp": 8, "position_kernel": 4, "position_groups": 2}
    )  # fmt: skip
    model.audio.update({"reach": 1, "hidden": 8, "tokens": 2, "width": 16})
    if "teacher" in config:
        taught = config.teacher.model
        taught.image_size, taught.autoencoder = SIZE, model.autoencoder
        for part in ("denoiser", "temporal"):
            taught[part].update({name: value for name, value in model[part].items() if name in taught[part]})
        taught.denoiser.image_prompt_dim = 16
        taught.guider.out_channels = 8
        taught.image_encoder.update({"hidden": 16, "layers": 1, "heads": 2, "mlp": 16, "image_size": 32})
    config.loss.prefix = 1
    config.data.audio_margin = MARGIN if config.data.audio else 0
    # Guided as the paper's, so that both branches run.
    config.sampling.update(
        {"guidance": 2.0, "mimic": 1.5, "steps": 2, "window": 4, "overlap": 1, "windows_per_chunk": 2}
    )
    return config


def make_system(stage: str = "demo", **behaviour: object) -> AnyExpress:
    """The system of `get_config`, with changed behaviour."""
    config = get_config(stage)
    config.model.behaviour.update(behaviour)
    return AnyExpress.from_config(config)


def write_tokenizer(folder: Path) -> None:
    """A published tokenizer in small: two letters, the word of both, begin and end; the system knows eight ids."""
    folder.mkdir()
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokens = ["f", "a", "f</w>", "a</w>", "fa</w>", "!", begin, end]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nf a</w>\n")
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end, "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))


def picture(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (*shape, SIZE, SIZE, 3), dtype=np.uint8))


def make_batch(clips: int = 2, frames: int = FRAMES, seed: int = 0) -> dict[str, Array]:
    """A training batch of noise, in the form that `docs/data.md` gives."""
    samples = round((frames + 2 * MARGIN) * 640)
    rng = np.random.default_rng(seed)
    sound = rng.normal(size=(clips, samples)).astype(np.float32)
    return {
        "frames": picture(clips, frames, seed=seed),
        "reference": picture(clips, seed=seed + 1),
        "audio": jnp.asarray(0.1 * sound),
        "landmarks": jnp.asarray(rng.uniform(8, 24, (clips, frames, 478, 3)), jnp.float32),
        "control": picture(clips, frames, seed=seed + 2),
    }


def make_driving(system: AnyExpress, frames: int = 4, seed: int = 0) -> dict[str, Array]:
    """Hidden states around each frame, of noise."""
    layers, width = system.speech_config.layers, system.speech_config.hidden
    shape = (1, frames, system.audio_config.window, layers, width)
    return {"audio": jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)}
