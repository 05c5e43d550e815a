"""The original's configs and weights as this project's: what all golden tests of this system share."""

from __future__ import annotations

import functools
import re

import cv2
import jax.numpy as jnp
import numpy as np

from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.diffusion.schedule import Schedule, make_schedule
from portrait_jax.interchange.layouts import Part
from portrait_jax.nn.temporal import TemporalConfig
from portrait_jax.typing import PyTree
from tests.golden import GoldenCase, recipe_weights
from tests.weights import imported, part_of, tree_of

SYSTEM = "follow_your_emoji"
BUFFERS = re.compile(r".*pos_encoder\.pe")
"""Published tensors that the recipe does not count."""


def case(name: str) -> GoldenCase:
    """One entry of the golden folder's config.json."""
    return GoldenCase(SYSTEM, name)


def picture(golden: GoldenCase, name: str) -> np.ndarray:
    """A picture of the golden folder, RGB."""
    return cv2.imread(str(golden.folder / f"{name}.png"))[..., ::-1]


def part(subnet: str) -> Part:
    """A sub-network of the published layout."""
    return part_of(SYSTEM, subnet)


PREDICTIONS = {"v_prediction": "v", "epsilon": "epsilon", "sample": "x0"}
SOLVER = "ddim"
"""The original's scheduler is one class, DDIM, which its config.json does not say."""


def noise_schedule(original: dict) -> Schedule:
    """The scheduler's noise levels."""
    return make_schedule(
        original["beta_schedule"],
        length=original["num_train_timesteps"],
        beta_start=original["beta_start"],
        beta_end=original["beta_end"],
        zero_terminal_snr=original["rescale_betas_zero_snr"],
    )


def placement(original: dict) -> dict:
    """Where its steps start and land. It adds its offset to leading timesteps alone, and goes back by T // steps by its code."""
    assert not original["clip_sample"]
    name = original["timestep_spacing"]
    return {"spacing": name, "offset": original["steps_offset"] if name == "leading" else 0, "previous": "stride"}


def temporal_config(original: dict) -> TemporalConfig:
    """Motion modules of the original's UNet."""
    assert not original["motion_module_decoder_only"]
    finest_first = range(len(original["block_out_channels"]))
    return TemporalConfig(
        mid=original["motion_module_mid_block"],
        levels=tuple(level for level in finest_first if 2**level in original["motion_module_resolutions"]),
        **module_options(original["motion_module_kwargs"]),
    )


def module_options(original: dict) -> dict:
    """One motion module's."""
    return dict(
        num_heads=original["num_attention_heads"],
        max_length=original["temporal_position_encoding_max_len"],
        attentions=len(original["attention_block_types"]),
    )


def unet_config(golden: GoldenCase) -> UNetConfig:
    """The denoising UNet's, or the reference net's, which has no motion modules and no head."""
    original = golden.config
    denoises = original.get("use_motion_module", False)
    return UNetConfig(
        in_channels=original["in_channels"],
        out_channels=original["out_channels"],
        block_out_channels=tuple(original["block_out_channels"]),
        layers_per_block=original["layers_per_block"],
        attention_levels=tuple(kind.startswith("CrossAttn") for kind in original["down_block_types"]),
        num_heads=original["attention_head_dim"],
        context_dim=original["cross_attention_dim"],
        norm_groups=original["norm_num_groups"],
        image_prompt_dim=golden.inputs["encoder_hidden_states"].shape[-1],
        temporal=temporal_config(original) if denoises else None,
        output_head=denoises,
    )


def rule(name: str, draw: np.ndarray) -> np.ndarray:
    """The recipe that config.json tells under `_recipe`."""
    if draw.ndim > 1:
        return draw / np.sqrt(np.float32(np.prod(draw.shape[1:])))
    small = np.float32(0.1) * draw
    return np.float32(1) + small if name.endswith("weight") else small


def recipe_variables(golden: GoldenCase, tree: PyTree, subnet: str) -> dict:
    """Variables of a whole sub-network of which the files hold the seed only."""
    stored = part(subnet).stored(tree)
    shapes = {name: shape for name, shape in stored.items() if not BUFFERS.fullmatch(name)}
    assert len(shapes) == golden.settings["n_params"]
    return imported(tree, recipe_weights(shapes, golden.settings["recipe_seed"], rule), part(subnet))


@functools.cache
def build(golden: GoldenCase, subnet: str) -> tuple[UNet, dict]:
    """A golden UNet and its variables; made once for all tests, not to be changed."""
    module = UNet(unet_config(golden))
    size = golden.config["sample_size"]
    tree = tree_of(module, jnp.zeros((1, 1, size, size, module.config.in_channels)), jnp.zeros(1), capture=True)
    return module, recipe_variables(golden, tree, subnet)
