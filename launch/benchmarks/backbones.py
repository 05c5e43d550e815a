"""The suites `training` and `sampling`: the denoisers at their published sizes, with as much as one accelerator of 80 GB holds.

Their originals in PyTorch stand under the same names in `torch_backbones.ORIGINALS`. Where ours computes activations anew in the
backward pass, so does the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from launch.benchmarks.networks import (
    MOTION,
    SD15,
    SMALL,
    SMALL_MOTION,
    Input,
    Network,
    Size,
    denoising,
    run_unet,
    with_motion,
)
from portrait_jax.backbones import UNet, UNetConfig
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig
from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.typing import Array

FIRST = "b f h w c -> b f c h w"


def run_svd(run: Callable, x: Array, timestep: Array, portrait: Array, tokens: Array, ids: Array) -> Array:
    return run(x, timestep, Conditioning(image_tokens=tokens, ids=ids, portrait=portrait))


def run_cogvideox(run: Callable, x: Array, timestep: Array, known: Array, text: Array) -> Array:
    return run(x, timestep, Conditioning(text=text, known=known))


def svd(config: SVDUNetConfig, frames: int, size: int) -> Size:
    """Windows of latents, the portrait's, its token, and three numbers."""
    return Size(
        config,
        {
            "x": Input((1, frames, size, size, 4), FIRST),
            "timestep": Input((1,)),
            "portrait": Input((1, size, size, 4), "b h w c -> b c h w"),
            "tokens": Input((1, 1, config.context_dim)),
            "ids": Input((1, 3)),
        },
    )


def cogvideox(config: CogVideoXConfig) -> Size:
    """Latents of the grid that the config was trained on, as many known ones, and text."""
    frames, height, width = config.grid
    shape = (1, frames, height * config.patch_size, width * config.patch_size, config.in_channels // 2)
    text = Input((1, config.text_tokens, config.text_dim))
    return Size(
        config,
        {"x": Input(shape, FIRST), "timestep": Input((1,), value=501), "known": Input(shape, FIRST), "text": text},
    )


def batched(count: int, size: Size) -> Size:
    """As many examples at a time."""
    inputs = {name: replace(entry, shape=(count, *entry.shape[1:])) for name, entry in size.inputs.items()}
    return Size(size.config, inputs)


def checkpointed(config: UNetConfig) -> UNetConfig:
    return replace(config, gradient_checkpointing=True)


LAYERS = 6
"""Of CogVideoX's 42: all are alike, and with the optimizer's state more do not fit."""
SVD = SVDUNetConfig(gradient_checkpointing=True)
SMALL_SVD = SVDUNetConfig(
    block_out_channels=(32, 64), layers_per_block=1, attention_levels=(True, False), num_heads=(1, 2), context_dim=16,
    id_dim=16,
)  # fmt: skip
SMALL_DIT = CogVideoXConfig(layers=2, heads=2, text_dim=24, text_tokens=8, time_dim=32, grid=(2, 2, 3))
DENOISERS: Mapping[str, Network] = {
    "unet": Network(
        "Stable Diffusion 1.5 UNet, 8 pictures of 512 pixels", lambda c, d: UNet(c, (), d), run_unet,
        batched(8, denoising(SD15, 1, 64, 77)), batched(2, denoising(SMALL, 1, 8, 5)),
    ),
    "motion_unet": Network(
        "UNet with AnimateDiff v2 motion modules, 16 frames of 512 pixels", lambda c, d: UNet(c, (), d), run_unet,
        denoising(checkpointed(with_motion(SD15, MOTION)), 16, 64, 77), denoising(with_motion(SMALL, SMALL_MOTION), 3, 8, 5),
    ),
    "svd_unet": Network(
        "Stable Video Diffusion UNet, 14 frames of 512 pixels", lambda c, d: SVDUNet(c, (), d), run_svd,
        svd(SVD, 14, 64), svd(SMALL_SVD, 3, 8),
    ),
    "cogvideox": Network(
        f"CogVideoX-5B, {LAYERS} of 42 layers, 49 frames of 720×480", lambda c, d: CogVideoX(c, (), d), run_cogvideox,
        cogvideox(CogVideoXConfig(layers=LAYERS, remat="full")), cogvideox(SMALL_DIT),
    ),
}  # fmt: skip
"""Name → denoiser; the order is that of the tables."""
