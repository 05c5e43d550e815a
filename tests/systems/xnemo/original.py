"""The original's configs and weights as this project's: what all golden tests of this system share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flax import linen as nn

from portrait_jax.adapters.latent_motion import LatentMotionConfig
from portrait_jax.backbones.unet import UNetConfig
from portrait_jax.interchange import layout_named
from portrait_jax.interchange.layouts import Part
from portrait_jax.interchange.tables.xnemo import reference_map
from portrait_jax.nn.temporal import TemporalConfig
from portrait_jax.typing import PyTree
from tests.golden import GoldenCase, recipe_weights
from tests.weights import imported, tree_of

SYSTEM = "xnemo"


def case(name: str) -> GoldenCase:
    """One case of the golden folder."""
    return GoldenCase(SYSTEM, name)


def parts(subnet: str) -> tuple[Part, ...]:
    """Those of the published layout that make up a sub-network."""
    return tuple(part for part in layout_named(SYSTEM).parts if part.subnet == subnet)


def reference_part(config: UNetConfig) -> Part:
    """The reference net's, for the width of its image token."""
    (part,) = parts("reference")
    return replace(part, table=reference_map(config.context_dim))


def temporal_config(original: dict) -> TemporalConfig:
    """Temporal modules of the original."""
    return TemporalConfig(
        num_heads=original["num_attention_heads"],
        max_length=original["temporal_position_encoding_max_len"],
        attentions=len(original["attention_block_types"]),
        name="temporal_modules",
    )


def motion_config(original: dict) -> LatentMotionConfig:
    """Motion modules of the original."""
    assert not original["temporal_position_encoding"]
    return LatentMotionConfig(original["num_attention_heads"], len(original["attention_block_types"]))


def unet_config(original: dict, *, denoises: bool) -> UNetConfig:
    """The denoising UNet's, or the reference net's, which has no modules over frames and no head."""
    assert not denoises or original["motion_module_mid_block"]
    return UNetConfig(
        in_channels=original["in_channels"],
        out_channels=original["out_channels"],
        block_out_channels=tuple(original["block_out_channels"]),
        layers_per_block=original["layers_per_block"],
        attention_levels=tuple(kind.startswith("CrossAttn") for kind in original["down_block_types"]),
        num_heads=original["attention_head_dim"],
        context_dim=original["cross_attention_dim"],
        norm_groups=original["norm_num_groups"],
        temporal=temporal_config(original["temporal_module_kwargs"]) if denoises else None,
        output_head=denoises,
    )


def computed(name: str) -> bool:
    """Whether the recipe leaves a tensor at its deterministic value."""
    return name.endswith(("num_batches_tracked", ".pe")) or name == "pe"


def rule(name: str, draw: np.ndarray) -> np.ndarray:
    """The recipe that the folder's README tells."""
    if name.endswith("running_var"):
        return np.float32(1) + np.float32(0.5) * np.abs(draw)
    if draw.ndim > 1:
        return draw * np.float32(1 / np.sqrt(np.prod(draw.shape[1:])))
    small = np.float32(0.1) * draw
    return np.float32(1) + small if name.endswith("weight") else small


def recipe(shapes: dict, seed: int) -> dict[str, np.ndarray]:
    """Weights of all names that the recipe replaces; all names count."""
    return {name: value for name, value in recipe_weights(shapes, seed, rule).items() if not computed(name)}


def stored(tree: PyTree, *of: Part) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the original keeps of a module that several parts describe."""
    return {name: shape for part in of for name, shape in part.stored(tree).items()}


def autoencoder_variables(module: nn.Module, image: np.ndarray, seed: int) -> dict:
    """The autoencoder's by the recipe. With one layer the original builds an attention that it never calls: it counts."""
    tree, (part,) = tree_of(module, image), parts("autoencoder")
    names = part.stored(tree)
    twins = {name.replace("encoder", "decoder"): shape for name, shape in names.items()
             if name.startswith("encoder.mid_block.attentions")}  # fmt: skip
    weights = recipe(names | twins, seed)
    return imported(tree, {name: value for name, value in weights.items() if name in names}, part)
