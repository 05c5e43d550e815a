"""CogVideoX-5B-I2V: transformer and autoencoder, in diffusers' layout and in the original one (SwissArmyTransformer)."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from portrait_jax.autoencoders.causal import CausalAutoencoder
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import Filler, Fused, KeyMap
from portrait_jax.nn.embeddings import rotary_angles
from portrait_jax.nn.slots import Slot
from portrait_jax.typing import PyTree

PREFIX = "model.diffusion_model."
BLOCKS = "transformer_blocks"


def transformer_shapes(slots: tuple[Slot, ...] = (), **fields) -> PyTree:
    """The transformer's tree at published size; `fields` of the conditioning are what its slots read."""
    config = CogVideoXConfig()

    def make():
        told: Any = {name: jnp.zeros(shape) for name, shape in fields.items()}
        told["text"] = jnp.zeros((1, config.text_tokens, config.text_dim))
        return jnp.zeros((1, 1, 4, 4, config.in_channels)), jnp.zeros(1), Conditioning(**told)

    return shapes_of(CogVideoX(config, slots), make)


@functools.cache
def plain_shapes() -> PyTree:
    """Without slots."""
    return transformer_shapes()


def cross_attention(name: str) -> tuple[tuple[str, str], ...]:
    """Names of a cross-attention that a slot puts into each block, and of its norm; its keys and values are fused."""
    layer = rf"transformer.layers.\1.{name}"
    return (
        (rf"^{BLOCKS}\.(\d+)\.{name}_attn\.norm\.", rf"{layer}_input_layernorm."),
        (rf"^{BLOCKS}\.(\d+)\.{name}_attn\.to_q\.", rf"{layer}_attn.query."),
        (rf"^{BLOCKS}\.(\d+)\.{name}_attn\.to_(k|v)\.", rf"{layer}_attn.to_\2."),
        (rf"^{BLOCKS}\.(\d+)\.{name}_attn\.to_out\.0\.", rf"{layer}_attn.dense."),
    )


def original_map(
    prefix: str = PREFIX,
    config: CogVideoXConfig | None = None,
    slots: tuple[str, ...] = (),
    ignored: tuple[str, ...] = (),
) -> KeyMap:
    """The original layout for any size; `slots` are the names of cross-attentions in each block."""
    sizes = config or CogVideoXConfig()
    layer, adaln = r"transformer.layers.\1", "mixins.adaln_layer"

    def table(turn, shape: tuple[int, ...]) -> np.ndarray:
        positions = [np.arange(length) for length in sizes.grid]
        return turn(rotary_angles(positions, sizes.rotary_widths))

    table_of_positions = rf"{prefix}mixins.pos_embed.pos_embedding".replace(".", r"\.")
    final_norm = f"{prefix}transformer.final_layernorm.weight".replace(".", r"\.")
    return KeyMap(
        prefix,
        modules={
            "patch_embed": "mixins.patch_embed",
            "patch_embed.pos_embedding": "mixins.pos_embed.pos_embedding",
            "time_embedding.linear_1": "time_embed.0",
            "time_embedding.linear_2": "time_embed.2",
            "norm_final": "transformer.final_layernorm",
            "norm_out.norm": "mixins.final_layer.norm_final",
            "norm_out.linear": "mixins.final_layer.adaLN_modulation.1",
            "proj_out": "mixins.final_layer.linear",
        },
        renames=(
            *(rename for name in slots for rename in cross_attention(name)),
            (rf"^{BLOCKS}\.(\d+)\.norm1\.norm\.", rf"{layer}.input_layernorm."),
            (rf"^{BLOCKS}\.(\d+)\.norm2\.norm\.", rf"{layer}.post_attention_layernorm."),
            (rf"^{BLOCKS}\.(\d+)\.(norm[12])\.linear\.", rf"{adaln}.adaLN_modulations.\1.1.\2."),
            (rf"^{BLOCKS}\.(\d+)\.attn1\.norm_q\.", rf"{adaln}.query_layernorm_list.\1."),
            (rf"^{BLOCKS}\.(\d+)\.attn1\.norm_k\.", rf"{adaln}.key_layernorm_list.\1."),
            (rf"^{BLOCKS}\.(\d+)\.attn1\.to_out\.0\.", rf"{layer}.attention.dense."),
            (rf"^{BLOCKS}\.(\d+)\.attn1\.", rf"{layer}.attention."),
            (rf"^{BLOCKS}\.(\d+)\.ff\.net\.0\.proj\.", rf"{layer}.mlp.dense_h_to_4h."),
            (rf"^{BLOCKS}\.(\d+)\.ff\.net\.2\.", rf"{layer}.mlp.dense_4h_to_h."),
        ),
        fused=(
            # Shift, scale and gate before attention and before the feed-forward layers: of the video, then of the text.
            Fused(r"\.norm1\.(weight|bias)$", r".\1", (0, 1, 2, 6, 7, 8), 12),
            Fused(r"\.norm2\.(weight|bias)$", r".\1", (3, 4, 5, 9, 10, 11), 12),
            *(
                Fused(rf"\.attention\.to_{x}\.(weight|bias)$", r".attention.query_key_value.\1", part, 3)
                for part, x in enumerate("qkv")
            ),
            *(Fused(rf"_attn\.to_{x}\.(weight|bias)$", r"_attn.key_value.\1", part, 2) for part, x in enumerate("kv")),
        ),
        stacked=(BLOCKS,),
        ignored=ignored,
        fillers=(
            # Tables that are computed here, and one that nothing reads.
            Filler(table_of_positions, f"{prefix}mixins.pos_embed.freqs_cos", functools.partial(table, np.cos)),
            Filler(table_of_positions, f"{prefix}mixins.pos_embed.freqs_sin", functools.partial(table, np.sin)),
            Filler(
                final_norm,
                f"{prefix}transformer.position_embeddings.weight",
                lambda shape: np.zeros((64, *shape), np.float32),
            ),
        ),
    )


PART = Part(
    "denoiser",
    KeyMap(stacked=(BLOCKS,)),
    plain_shapes,
    Signature(
        ("patch_embed.pos_embedding", f"{BLOCKS}.0.norm1.linear.weight", "norm_out.linear.weight"),
        (),
        {"patch_embed.pos_embedding": (1, 17776, 3072)},
    ),
    "transformer",
)
ORIGINAL = Part(
    "denoiser",
    original_map(),
    plain_shapes,
    Signature(
        (f"{PREFIX}mixins.pos_embed.pos_embedding", f"{PREFIX}transformer.layers.0.attention.query_key_value.weight"),
        (r".*\.(face|audio)_attn\.",),
        {f"{PREFIX}mixins.pos_embed.pos_embedding": (1, 17776, 3072)},
    ),
    "cogvideox-5b-i2v-sat/transformer/1/mp_rank_00_model_states.pt",
)


@functools.cache
def autoencoder_shapes() -> PyTree:
    """The tree of the autoencoder."""
    return shapes_of(CausalAutoencoder(), lambda: (jnp.zeros((1, 1, 8, 8, 3)),))


def autoencoder_modules(levels: int, layers: int) -> dict[str, str]:
    """The original's names; it counts the decoder's levels from the finest."""
    modules: dict[str, str] = {}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.mid_block.resnets.{j}": f"{half}.mid.block_{j + 1}" for j in range(2)}
    for i in range(levels):
        modules[f"encoder.down_blocks.{i}.downsamplers.0"] = f"encoder.down.{i}.downsample"
        modules[f"decoder.up_blocks.{i}.upsamplers.0"] = f"decoder.up.{levels - 1 - i}.upsample"
        for j in range(layers + 1):
            for ours, theirs in (("encoder.down", i), ("decoder.up", levels - 1 - i)):
                block = f"{ours}.{theirs}.block.{j}"
                modules[f"{ours}_blocks.{i}.resnets.{j}"] = block
                modules[f"{ours}_blocks.{i}.resnets.{j}.conv_shortcut"] = f"{block}.nin_shortcut"
    return modules


AUTOENCODER_PART = Part(
    "autoencoder",
    KeyMap(),
    autoencoder_shapes,
    Signature(
        ("encoder.conv_in.conv.weight", "decoder.up_blocks.0.resnets.0.norm1.conv_y.conv.weight"),
        (),
        {"encoder.conv_in.conv.weight": (128, 3, 3, 3, 3), "decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)},
    ),
    "vae",
)
ORIGINAL_AUTOENCODER = Part(
    "autoencoder",
    KeyMap(modules=autoencoder_modules(4, 3), ignored=(r"loss.*",)),
    autoencoder_shapes,
    Signature(
        ("encoder.conv_in.conv.weight", "decoder.up.0.block.0.norm1.conv_y.conv.weight"),
        (),
        {"encoder.conv_in.conv.weight": (128, 3, 3, 3, 3), "decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)},
    ),
    "cogvideox-5b-i2v-sat/vae/3d-vae.pt",
)
LAYOUTS = (
    Layout(
        "cogvideox_5b_i2v_vae",
        "CogVideoX-5B-I2V's autoencoder (diffusers)",
        (AUTOENCODER_PART,),
        ("cogvideox_5b_i2v_vae",),
    ),
    Layout(
        "cogvideox_5b_i2v_vae_original",
        "CogVideoX-5B-I2V's autoencoder (original)",
        (ORIGINAL_AUTOENCODER,),
        ("cogvideox-5b-i2v-sat/vae/3d-vae.pt",),
    ),
    Layout(
        "cogvideox_5b_i2v_transformer",
        "CogVideoX-5B-I2V's transformer (diffusers)",
        (PART,),
        ("cogvideox_5b_i2v_transformer",),
    ),
    Layout(
        "cogvideox_5b_i2v_original",
        "CogVideoX-5B-I2V's transformer (original, SwissArmyTransformer)",
        (ORIGINAL,),
        ("cogvideox-5b-i2v-sat/transformer/1/mp_rank_00_model_states.pt",),
    ),
)
