"""The original's configs and weights as this project's: what all golden tests of this system share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from flax import linen as nn

from portrait_jax.adapters.identity import IdentityAdapterConfig
from portrait_jax.adapters.landmark_guider import LandmarkGuiderConfig
from portrait_jax.adapters.motion_memory import MotionMemoryConfig
from portrait_jax.autoencoders import KLConfig
from portrait_jax.backbones.svd_unet import SVDUNetConfig
from portrait_jax.encoders.dinov2 import DINOv2Config
from portrait_jax.typing import PyTree
from tests.golden import GoldenCase, recipe_weights
from tests.weights import imported, part_of, tree_of

SYSTEM = "hunyuan_portrait"
DRAWN_WIDE = ("pos_embed", "cls_token", "register_tokens", "mask_token", "latents")


def case(name: str) -> GoldenCase:
    """One case of the golden folder."""
    return GoldenCase(SYSTEM, name)


def rule(name: str, draw: np.ndarray) -> np.ndarray:
    """The recipe that `recipe.json` tells."""
    last, small = name.split(".")[-1], np.float32(0.1) * draw
    if last == "num_batches_tracked":
        return np.zeros(draw.shape, np.float32)
    if last == "running_var":
        return np.float32(1) + np.abs(small)
    if last == "running_mean" or last.endswith("bias"):
        return small
    if last in ("mix_factor", *DRAWN_WIDE) or name.endswith(("position_head.weight", "position_exp.weight")):
        return np.float32(0.5) * draw
    if last == "gamma" or draw.ndim == 1:
        return np.float32(1) + small
    return draw / np.float32(np.sqrt(np.prod(draw.shape[1:])))


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """As the golden files have it; counters are 64-bit integers there."""
    total = hashlib.sha256()
    for name in sorted(weights):
        counter = name.endswith("num_batches_tracked")
        total.update(name.encode() + weights[name].astype(np.int64 if counter else np.float32).tobytes())
    return total.hexdigest()


def weights_of(golden: GoldenCase) -> dict[str, np.ndarray]:
    """A network's, stored or by the recipe, compared with the sum that the golden file gives."""
    about = golden.settings["weights"]
    if about["stored"]:
        return golden.weights()
    shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
    weights = recipe_weights(shapes, about["recipe_seed"], rule)
    assert len(weights) == about["count"] and digest(weights) == about["sha256_sorted_names_and_bytes"]
    return weights


def variables(subnet: str, module: nn.Module, weights: Mapping[str, np.ndarray], *args, **kwargs) -> dict:
    """Those of a sub-network from the original's weights; what the original builds and never runs is left out."""
    part, tree = part_of(SYSTEM, subnet), tree_of(module, *args, **kwargs)
    unused = {name for name in weights if name.startswith("decoder.mid_block.attentions")} - part.stored(tree).keys()
    return imported(tree, {name: value for name, value in weights.items() if name not in unused}, part)


def recipe_of(subnet: str, module: nn.Module, seed: int, *args, **kwargs) -> dict:
    """Variables by the recipe where the golden files give no shapes: of all that the original keeps."""
    tree = tree_of(module, *args, **kwargs)
    shapes = original_shapes(subnet, tree)
    return variables(subnet, module, recipe_weights(shapes, seed, rule), *args, **kwargs)


def original_shapes(subnet: str, tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a sub-network's tensors, with those that the original builds and never runs."""
    shapes = dict(part_of(SYSTEM, subnet).stored(tree))
    shapes |= {name.replace("running_var", "num_batches_tracked"): (1,) for name in shapes if "running_var" in name}
    if "cls_token" in shapes:
        shapes["mask_token"] = shapes["cls_token"][1:]
    shapes |= {
        name.replace("encoder", "decoder"): shape for name, shape in shapes.items()
        if name.startswith("encoder.mid_block.attentions")
    }  # fmt: skip
    return shapes


def unet_config(original: dict) -> SVDUNetConfig:
    """The denoiser's."""
    latents = original["out_channels"]
    return SVDUNetConfig(
        in_channels=latents,
        out_channels=latents,
        block_out_channels=tuple(original["block_out_channels"]),
        layers_per_block=original["layers_per_block"],
        attention_levels=tuple(kind.startswith("CrossAttn") for kind in original["down_block_types"]),
        num_heads=tuple(original["num_attention_heads"]),
        context_dim=original["cross_attention_dim"],
        id_dim=original["addition_time_embed_dim"],
        ids=original["projection_class_embeddings_input_dim"] // original["addition_time_embed_dim"],
        over_time="mean",
    )


def encoder_configs(original: dict) -> tuple[DINOv2Config, IdentityAdapterConfig]:
    """The image encoder's and its adapters'."""
    encoder = DINOv2Config(
        hidden=original["embed_dim"],
        layers=original["depth"],
        heads=original["num_heads"],
        mlp=original["mlp_ratio"] * original["embed_dim"],
        grid=original["img_size"] // DINOv2Config().patch,
        plain_offset=0.1,
    )
    width, blocks = original["visual_adapter_dim"], tuple(original["add_adapter_layer"])
    return encoder, IdentityAdapterConfig(width=width, blocks=blocks)


def memory_config(original: dict) -> MotionMemoryConfig:
    """The motion memory's."""
    return MotionMemoryConfig(
        tokens=original["num_queries"],
        width=original["width"],
        intensity_width=original["intensity_embed_dim"],
        layers=original["layers"],
        heads=original["heads"],
        out=original["output_dim"],
    )


def guider_config(original: dict) -> LandmarkGuiderConfig:
    """The pose guider's."""
    return LandmarkGuiderConfig(tuple(original["block_out_channels"]), original["conditioning_embedding_channels"])


def autoencoder_config(original: dict) -> KLConfig:
    """The autoencoder's."""
    return KLConfig(
        tuple(original["block_out_channels"]),
        original["layers_per_block"],
        original["latent_channels"],
        scaling_factor=original["scaling_factor"],
    )
