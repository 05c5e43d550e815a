"""The PyTorch originals of `backbones.DENOISERS` that `torch_networks` does not have: diffusers' video denoisers.

Imported only where torch is installed. Inputs come in PyTorch's layout, by the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from launch.benchmarks import torch_networks
from launch.benchmarks.torch_networks import Inputs, Original, library
from portrait_jax.backbones.cogvideox import CogVideoXConfig
from portrait_jax.backbones.svd_unet import SVDUNetConfig


def svd_unet(config: SVDUNetConfig, inputs: Inputs) -> Original:
    blocks = {True: "CrossAttn{}BlockSpatioTemporal", False: "{}BlockSpatioTemporal"}
    model = library("diffusers").UNetSpatioTemporalConditionModel(
        in_channels=2 * config.out_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        down_block_types=tuple(blocks[attends].format("Down") for attends in config.attention_levels),
        up_block_types=tuple(blocks[attends].format("Up") for attends in reversed(config.attention_levels)),
        num_attention_heads=config.num_heads,
        cross_attention_dim=config.context_dim,
        addition_time_embed_dim=config.id_dim,
        projection_class_embeddings_input_dim=config.ids * config.id_dim,
        layers_per_block=config.layers_per_block,
        num_frames=inputs["x"].shape[1],
    )
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()

    def call(model: Any, x: Tensor, timestep: Tensor, portrait: Tensor, tokens: Tensor, ids: Tensor) -> Tensor:
        known = portrait[:, None].expand(-1, x.shape[1], -1, -1, -1)
        return model(torch.cat([x, known], 2), timestep, tokens, ids).sample

    return model, call


def cogvideox(config: CogVideoXConfig, inputs: Inputs) -> Original:
    frames, height, width = config.grid
    model = library("diffusers").CogVideoXTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        time_embed_dim=config.time_dim,
        text_embed_dim=config.text_dim,
        num_layers=config.layers,
        sample_width=width * config.patch_size,
        sample_height=height * config.patch_size,
        sample_frames=4 * (frames - 1) + 1,
        max_text_seq_length=config.text_tokens,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
        attention_bias=True,
    )
    if config.remat != "none":
        model.enable_gradient_checkpointing()
    embed = library("diffusers.models.embeddings").get_3d_rotary_pos_embed
    rotary = embed(config.head_dim, ((0, 0), (height, width)), (height, width), frames, device=inputs["x"].device)

    def call(model: Any, x: Tensor, timestep: Tensor, known: Tensor, text: Tensor) -> Tensor:
        return model(torch.cat([x, known], 2), text, timestep, image_rotary_emb=rotary).sample

    return model, call


ORIGINALS: dict[str, Callable[[Any, Inputs], Original]] = {
    **torch_networks.ORIGINALS,
    "svd_unet": svd_unet,
    "cogvideox": cogvideox,
}
"""Name of a network or denoiser → its original, given our config and the inputs."""
