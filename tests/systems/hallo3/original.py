"""The original's configs and weights as this project's: what all golden tests of this system share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from portrait_jax.adapters.audio_projection import AudioProjection, AudioProjectionConfig
from portrait_jax.adapters.frame_attention import frame_slot
from portrait_jax.adapters.image_prompt import ImagePromptConfig, PlainProjection
from portrait_jax.autoencoders import CausalConfig
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders import Wav2Vec2Config
from portrait_jax.interchange.layouts import Part
from portrait_jax.interchange.tables.cogvideox import PREFIX
from portrait_jax.interchange.tables.hallo3 import REFERENCE_PREFIX
from portrait_jax.typing import PyTree
from tests.golden import GoldenCase, within
from tests.weights import imported, part_of, tree_of

SYSTEM = "hallo3"
IN_DENOISER = {"audio_projection": "transformer.audio_proj", "face_projection": "transformer.face_proj"}


def case(name: str) -> GoldenCase:
    """One case of the golden folder."""
    return GoldenCase(SYSTEM, name)


def settings() -> dict:
    """What the folder says of all cases."""
    return case("denoiser").settings


def transformer_config() -> CogVideoXConfig:
    """Both transformers'."""
    sizes = settings()["transformer"]
    patch, eps = sizes["patch_size"], sizes["eps"]
    config = CogVideoXConfig(
        layers=sizes["num_layers"],
        heads=sizes["num_heads"],
        head_dim=sizes["head_dim"],
        in_channels=sizes["in_channels"],
        out_channels=sizes["out_channels"],
        patch_size=patch,
        text_dim=sizes["text_dim"],
        text_tokens=sizes["text_length"],
        time_dim=sizes["time_embed_dim"],
        mlp=sizes["mlp_ratio"],
        grid=(sizes["latent_frames"], sizes["latent_height"] // patch, sizes["latent_width"] // patch),
        eps=eps["final_layernorm"],
        head_eps=eps["query_key_layernorm"],
        out_eps=eps["norm_final"],
    )
    assert config.width == sizes["hidden_size"] and config.rotary_widths == tuple(sizes["rope_dims_t_h_w"])
    return config


def audio_config() -> AudioProjectionConfig:
    """The audio projection's."""
    sizes = settings()["audio_proj"]
    return AudioProjectionConfig(sizes["intermediate_dim"], sizes["context_tokens"], sizes["output_dim"])


def face_config() -> ImagePromptConfig:
    """The face projection's."""
    sizes = settings()["face_proj"]
    return ImagePromptConfig("plain", sizes["tokens"], sizes["hidden_size"])


def autoencoder_config() -> CausalConfig:
    """The autoencoder's."""
    sizes = settings()["vae"]
    return CausalConfig(
        block_out_channels=tuple(sizes["ch"] * mult for mult in sizes["encoder_ch_mult"]),
        decoder_channels=tuple(sizes["ch"] * mult for mult in sizes["decoder_ch_mult"]),
        layers_per_block=sizes["num_res_blocks"],
        latent_channels=sizes["z_channels"],
        norm_groups=sizes["groupnorm_groups"],
        time_levels=int(np.log2(sizes["temporal_compress_times"])),
    )


def speech_config() -> Wav2Vec2Config:
    """The speech encoder's."""
    sizes = settings()["wav2vec"]
    return Wav2Vec2Config(
        conv_channels=tuple(sizes["conv"]),
        conv_kernels=tuple(sizes["conv_kernel"]),
        conv_strides=tuple(sizes["conv_stride"]),
        hidden=sizes["hidden"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        mlp=sizes["inter"],
        position_kernel=sizes["num_conv_pos_embeddings"],
        position_groups=sizes["num_conv_pos_embedding_groups"],
    )


def denoiser() -> CogVideoX:
    """The denoising transformer."""
    config = transformer_config()
    slots = (
        frame_slot("face", "image_tokens", config.heads),
        frame_slot("audio", "audio", config.heads),
    )
    return CogVideoX(config, slots)


def networks() -> dict[str, tuple]:
    """Sub-network → its module and what it is initialised with."""
    config, audio, face = transformer_config(), audio_config(), face_config()
    sizes = settings()
    latent = np.zeros((1, 1, config.patch_size, config.patch_size, config.in_channels), np.float32)
    time, text = np.zeros(1, np.float32), np.zeros((1, config.text_tokens, config.text_dim), np.float32)
    tokens = {
        "image_tokens": np.zeros((1, face.tokens, face.width), np.float32),
        "audio": np.zeros((1, 1, audio.tokens, audio.width), np.float32),
    }
    window = [1, 1, *(sizes["audio_proj"][name] for name in ("seq_len", "blocks", "channels"))]
    return {
        "denoiser": (denoiser(), latent, time, Conditioning(text=text, **tokens)),
        "reference": (CogVideoX(config), latent, time, Conditioning(text=text)),
        "audio_projection": (AudioProjection(audio), np.zeros(window, np.float32)),
        "face_projection": (
            PlainProjection(face),
            np.zeros((1, sizes["face_proj"]["clip_embeddings_dim"]), np.float32),
        ),
    }


def part(subnet: str) -> Part:
    """Of the published layout."""
    return part_of(SYSTEM, subnet)


def parameters(subnet: str) -> PyTree:
    """The golden weights of a sub-network, through the published key map."""
    module, *given = networks()[subnet]
    weights = case("reference_net" if subnet == "reference" else "denoiser").weights()
    if subnet in IN_DENOISER:
        weights = within(weights, IN_DENOISER[subnet])
    prefix = {"denoiser": PREFIX, "reference": REFERENCE_PREFIX}.get(subnet, part(subnet).table.prefix)
    return imported(tree_of(module, *given), weights, part(subnet), prefix=prefix)["params"]


def last(x: np.ndarray) -> np.ndarray:
    """b f c h w → b f h w c."""
    return np.moveaxis(x, 2, -1)


def bank(tensors: Mapping[str, np.ndarray], head: str = "bank") -> np.ndarray:
    """Features of all layers, stacked."""
    layers = within(tensors, head)
    return np.stack([layers[str(i)] for i in range(len(layers))])
