"""A release of random weights: the published files and names, reduced widths, made on the spot."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import follow_your_emoji
from portrait_jax.interchange import layout_named
from portrait_jax.typing import PyTree
from tests.interchange.made import save

LAYOUT = "follow_your_emoji"
SIZE = 64


def config(levels: int = 4, layers: int = 2) -> ConfigDict:
    """`released` with narrow networks, two steps and windows of three frames; `levels` and `layers` of the UNets."""
    config = follow_your_emoji.get_config("released")
    model = config.model
    model.image_size = config.data.size = SIZE
    model.autoencoder.update({"block_out_channels": (8, 8, 8, 8), "norm_groups": 4, "layers_per_block": 1})
    model.denoiser.update(
        {
            "block_out_channels": (8,) * levels,
            "layers_per_block": layers,
            "attention_levels": (True,) * (levels - 1) + (False,),
            "num_heads": 2,
            "context_dim": 8,
            "norm_groups": 4,
            "image_prompt_dim": 16,
        }
    )
    model.temporal.update({"num_heads": 2, "norm_groups": 4})
    model.guider.update({"channels": (4, 4, 8, 8), "out_channels": 8})
    model.image_encoder.update(
        {"hidden": 16, "layers": 1, "heads": 2, "mlp": 16, "patch": 16, "image_size": 32, "projection": 8}
    )
    config.sampling.update({"steps": 2, "window": 3, "overlap": 1})
    config.compute_dtype = "float32"
    return config


def write(folder: Path, shapes: PyTree) -> dict[str, dict[str, np.ndarray]]:
    """Writes the release's files for networks of these shapes below `folder`; returns their tensors by file."""
    rng, files = np.random.default_rng(0), {}
    for part in layout_named(LAYOUT).parts:
        stored = part.stored(shapes[part.subnet])
        scales = {name: 0.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1 for name, shape in stored.items()}
        tensors = {
            name: (scales[name] * rng.standard_normal(shape) + name.endswith("norm.weight")).astype(np.float32)
            for name, shape in sorted(stored.items())
        }
        place = Path(part.file)
        place = place.with_suffix(".safetensors") if place.suffix else place / "model.safetensors"
        save(folder / place, tensors)
        files[part.file] = tensors
    return files


def shapes_of(system) -> PyTree:
    """The system's parameters as shapes."""
    return jax.eval_shape(system.init, jax.random.key(0))
