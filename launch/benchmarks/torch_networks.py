"""The PyTorch originals of `networks.NETWORKS`, built from the same configs: diffusers', transformers', and iResNet.

Imported only where torch is installed. Inputs come in PyTorch's layout, by the same names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from portrait_jax.adapters import ControlNetConfig, T2IAdapterConfig
from portrait_jax.adapters.image_prompt import ImagePromptConfig
from portrait_jax.autoencoders.kl import KLConfig
from portrait_jax.autoencoders.tiny import TinyConfig
from portrait_jax.backbones import UNetConfig
from portrait_jax.encoders import ArcFaceConfig, CLIPTextConfig, CLIPVisionConfig, Wav2Vec2Config
from portrait_jax.nn.temporal import TemporalConfig

Inputs = Mapping[str, Tensor]
Original = tuple[nn.Module, Callable[..., Any]]
"""A module, and `call(module, **inputs)` → a tensor or a sequence of tensors."""


def library(name: str) -> ModuleType:
    """A package, or a part of one; raises ImportError where it is not installed."""
    return importlib.import_module(name)


def unet_sizes(config: UNetConfig, kind: str) -> dict[str, Any]:
    """Arguments that diffusers' UNets and ControlNet share; `kind` ends the names of blocks."""
    blocks = {True: f"CrossAttnDownBlock{kind}", False: f"DownBlock{kind}"}
    return {
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "down_block_types": tuple(blocks[attends] for attends in config.attention_levels),
        "cross_attention_dim": config.context_dim,
        "norm_num_groups": config.norm_groups,
    }


def decoder(config: UNetConfig, kind: str) -> dict[str, Any]:
    """The argument that UNets have besides."""
    blocks = {True: f"CrossAttnUpBlock{kind}", False: f"UpBlock{kind}"}
    return {"up_block_types": tuple(blocks[attends] for attends in reversed(config.attention_levels))}


def unet(config: UNetConfig, inputs: Inputs) -> Original:
    # diffusers calls the number of heads attention_head_dim here and in ControlNet.
    model = library("diffusers").UNet2DConditionModel(
        **unet_sizes(config, "2D"), **decoder(config, "2D"), attention_head_dim=config.num_heads
    )
    return model, lambda model, x, timestep, text: model(x, timestep, text).sample


def motion_unet(config: UNetConfig, inputs: Inputs) -> Original:
    motion = config.temporal or TemporalConfig()
    model = library("diffusers").UNetMotionModel(
        **unet_sizes(config, "Motion"),
        **decoder(config, "Motion"),
        num_attention_heads=config.num_heads,
        motion_num_attention_heads=motion.num_heads,
        motion_max_seq_length=motion.max_length,
        use_motion_mid_block=motion.mid,
    )
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    # It wants the text once per frame.
    return model, lambda model, x, timestep, text: model(x, timestep, text.repeat(x.shape[2], 1, 1)).sample


def motion_module(config: TemporalConfig, inputs: Inputs) -> Original:
    width = inputs["x"].shape[1]
    model = library("diffusers.models.unets.unet_motion_model").AnimateDiffTransformer3D(
        num_attention_heads=config.num_heads,
        attention_head_dim=width // config.num_heads,
        in_channels=width,
        norm_num_groups=config.norm_groups,
        positional_embeddings="sinusoidal",
        num_positional_embeddings=config.max_length,
    )
    return model, lambda model, x: model(x, num_frames=x.shape[0])


def controlnet(config: ControlNetConfig, inputs: Inputs) -> Original:
    model = library("diffusers").ControlNetModel(
        **unet_sizes(config.unet, "2D"),
        attention_head_dim=config.unet.num_heads,
        conditioning_embedding_out_channels=config.hint_channels,
    )

    def call(model: nn.Module, x: Tensor, timestep: Tensor, image: Tensor, text: Tensor) -> list[Tensor]:
        out = model(x, timestep, text, image)
        return [*out.down_block_res_samples, out.mid_block_res_sample]

    return model, call


def t2i_adapter(config: T2IAdapterConfig, inputs: Inputs) -> Original:
    model = library("diffusers").T2IAdapter(
        channels=list(config.channels), num_res_blocks=config.layers_per_block, downscale_factor=config.downscale
    )
    return model, lambda model, image: model(image)


def ip_adapter(config: ImagePromptConfig, inputs: Inputs) -> Original:
    model = library("diffusers.models.embeddings").IPAdapterPlusImageProjection(
        embed_dims=inputs["hidden"].shape[-1],
        output_dims=config.width,
        hidden_dims=config.width,
        depth=config.depth,
        dim_head=config.head_size,
        heads=config.width // config.head_size,
        num_queries=config.tokens,
    )
    return model, lambda model, hidden: model(hidden)


def ip_adapter_plain(config: ImagePromptConfig, inputs: Inputs) -> Original:
    width = inputs["embedding"].shape[-1]
    model = library("diffusers.models.embeddings").ImageProjection(width, config.width, config.tokens)
    return model, lambda model, embedding: model(embedding)


def ip_adapter_faceid(config: ImagePromptConfig, inputs: Inputs) -> Original:
    width = inputs["embedding"].shape[-1]
    model = library("diffusers.models.embeddings").IPAdapterFaceIDImageProjection(
        width, config.width, mult=2, num_tokens=config.tokens
    )
    return model, lambda model, embedding: model(embedding)


def ip_adapter_unet(config: UNetConfig, inputs: Inputs) -> Original:
    model, _ = unet(config, inputs)
    processor = library("diffusers.models.attention_processor").IPAdapterAttnProcessor2_0
    tokens, context = inputs["tokens"].shape[1:]
    processors = dict(model.attn_processors)
    for name in processors:
        if name.endswith("attn2.processor"):
            width = model.get_submodule(name.removesuffix(".processor")).to_q.out_features
            processors[name] = processor(width, context, (tokens,))
    model.set_attn_processor(processors)
    return model, lambda model, x, timestep, text, tokens: model(x, timestep, (text, [tokens])).sample


def autoencoder(config: KLConfig) -> nn.Module:
    """Both halves; only one of them is called."""
    levels = len(config.block_out_channels)
    return library("diffusers").AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
    )


def vae_encode(config: KLConfig, inputs: Inputs) -> Original:
    def call(model: nn.Module, x: Tensor) -> list[Tensor]:
        posterior = model.encode(x).latent_dist
        return [posterior.mean, posterior.logvar]

    return autoencoder(config), call


def vae_decode(config: KLConfig, inputs: Inputs) -> Original:
    return autoencoder(config), lambda model, x: model.decode(x).sample


def tiny_autoencoder(config: TinyConfig) -> nn.Module:
    """Both halves; only one of them is called."""
    return library("diffusers").AutoencoderTiny(
        encoder_block_out_channels=(config.channels,) * len(config.encoder_blocks),
        decoder_block_out_channels=(config.channels,) * len(config.decoder_blocks),
        num_encoder_blocks=config.encoder_blocks,
        num_decoder_blocks=config.decoder_blocks,
        latent_channels=config.latent_channels,
    )


def taesd_encode(config: TinyConfig, inputs: Inputs) -> Original:
    return tiny_autoencoder(config), lambda model, x: model.encode(x).latents


def taesd_decode(config: TinyConfig, inputs: Inputs) -> Original:
    return tiny_autoencoder(config), lambda model, x: model.decode(x).sample


def clip_text(config: CLIPTextConfig, inputs: Inputs) -> Original:
    transformers = library("transformers")
    sizes = transformers.CLIPTextConfig(
        vocab_size=config.vocabulary,
        max_position_embeddings=config.positions,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        hidden_act=config.activation,
        bos_token_id=config.vocabulary - 2,
        eos_token_id=config.vocabulary - 1,
    )
    return transformers.CLIPTextModel(sizes), lambda model, ids: model(ids).last_hidden_state


def clip_vision(config: CLIPVisionConfig, inputs: Inputs) -> Original:
    transformers = library("transformers")
    sizes = transformers.CLIPVisionConfig(
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        patch_size=config.patch,
        image_size=config.image_size,
        projection_dim=config.projection,
        hidden_act=config.activation,
    )
    return transformers.CLIPVisionModelWithProjection(sizes), lambda model, pixels: model(pixels).image_embeds


def wav2vec2(config: Wav2Vec2Config, inputs: Inputs) -> Original:
    transformers = library("transformers")
    sizes = transformers.Wav2Vec2Config(
        conv_dim=config.conv_channels,
        conv_kernel=config.conv_kernels,
        conv_stride=config.conv_strides,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        num_conv_pos_embeddings=config.position_kernel,
        num_conv_pos_embedding_groups=config.position_groups,
    )

    def call(model: nn.Module, samples: Tensor) -> Tensor:
        return torch.stack(model(samples, output_hidden_states=True).hidden_states, 2)

    return transformers.Wav2Vec2Model(sizes), call


class ResidualBlock(nn.Module):
    """insightface's `IBasicBlock`: norm, convolution, norm, PReLU, strided convolution, norm, plus the shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        shortcut = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.shortcut = shortcut if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features at half the size if the block has a stride."""
        return self.body(x) + self.shortcut(x)


def arcface(config: ArcFaceConfig, inputs: Inputs) -> Original:
    width = config.channels[0]
    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)]
    for channels, count in zip(config.channels, config.layers):
        layers += [ResidualBlock(channels if j else width, channels, 1 if j else 2) for j in range(count)]
        width = channels
    flat = width * (config.image_size // 2 ** len(config.channels)) ** 2
    layers += [nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(flat, config.embedding), nn.BatchNorm1d(config.embedding)]
    return nn.Sequential(*layers), lambda model, face: model(face)


ORIGINALS: dict[str, Callable[[Any, Inputs], Original]] = {
    "unet": unet,
    "motion_unet": motion_unet,
    "motion_unet_v3": motion_unet,
    "motion_module": motion_module,
    "controlnet": controlnet,
    "t2i_adapter": t2i_adapter,
    "ip_adapter": ip_adapter,
    "ip_adapter_plain": ip_adapter_plain,
    "ip_adapter_faceid": ip_adapter_faceid,
    "ip_adapter_unet": ip_adapter_unet,
    "vae_encode": vae_encode,
    "vae_decode": vae_decode,
    "taesd_encode": taesd_encode,
    "taesd_decode": taesd_decode,
    "clip_text": clip_text,
    "clip_vision": clip_vision,
    "clip_vision_h": clip_vision,
    "wav2vec2": wav2vec2,
    "arcface_50": arcface,
    "arcface": arcface,
}
"""Name of a network → its original, given our config and the inputs."""
