"""Image prompts (IP-Adapter, arXiv 2308.06721): pictures of a person to tokens, and the attention that reads them.

A projection turns what an image encoder or a face recogniser sees into tokens, once per clip; `image_prompt_slot` adds a second
cross-attention with its own keys and values beside the text's; FaceID adapters also change the base's projections by low-rank
updates, which `merge_lora` folds into its kernels. Names follow tencent-ailab/IP-Adapter and, inside a backbone, diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from portrait_jax.errors import CheckpointError, ConfigError, listed, nearest
from portrait_jax.nn.attention import attention, split_heads
from portrait_jax.nn.feedforward import gelu
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.nn.slots import Slot
from portrait_jax.nn.spatio_temporal import of_clip, of_frames
from portrait_jax.typing import Array, Float, PRNGKeyArray, PyTree

Tokens = Float[Array, "b k d"]


@dataclass(frozen=True)
class ImagePromptConfig:
    """One image-prompt adapter; the defaults are ip-adapter-plus-face's."""

    kind: str = "plus"
    """plain: from CLIP's embedding; plus, full: from CLIP's penultimate tokens; face_id: from a face embedding;
    face_id_plus: from both."""
    tokens: int = 16
    """Tokens per picture; `full` has one per CLIP token instead."""
    width: int = 768
    """Of the tokens: the backbone's context width."""
    depth: int = 4
    """Layers of the resampler (plus, face_id_plus)."""
    head_size: int = 64
    shortcut: bool = False
    """face_id_plus: adds the face's own tokens to the resampler's result (version 2)."""

    def __post_init__(self) -> None:
        if self.kind not in PROJECTIONS:
            raise ConfigError(f"image prompt '{self.kind}' does not exist{nearest(self.kind, tuple(PROJECTIONS))}")


class PlainProjection(nn.Module):
    """One embedding to tokens: linear, then layer norm; names proj and norm."""

    config: ImagePromptConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "b e"]) -> Tokens:
        """`embedding`: CLIP's projected image embedding; without a picture, zeros."""
        tokens, width = self.config.tokens, self.config.width
        x = nn.Dense(tokens * width, dtype=self.dtype, name="proj")(embedding)
        return LayerNorm(name="norm")(x.reshape(-1, tokens, width))


class FullProjection(nn.Module):
    """Every CLIP token through two layers and a norm; names proj_0, proj_2, proj_3."""

    config: ImagePromptConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "b n e"]) -> Tokens:
        """`hidden`: CLIP's penultimate hidden states; without a picture, those of an all-zero normalised image."""
        x = gelu(nn.Dense(hidden.shape[-1], dtype=self.dtype, name="proj_0")(hidden))
        return LayerNorm(name="proj_3")(nn.Dense(self.config.width, dtype=self.dtype, name="proj_2")(x))


def face_tokens(config: ImagePromptConfig, dtype: Any, embedding: Float[Array, "b e"]) -> Tokens:
    """Layers proj_0, proj_2 and norm; called inside a compact method."""
    x = gelu(nn.Dense(2 * embedding.shape[-1], dtype=dtype, name="proj_0")(embedding))
    x = nn.Dense(config.tokens * config.width, dtype=dtype, name="proj_2")(x)
    return LayerNorm(name="norm")(x.reshape(-1, config.tokens, config.width))


class FaceProjection(nn.Module):
    """One face embedding to tokens through two layers and a norm; names proj_0, proj_2, norm."""

    config: ImagePromptConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "b e"]) -> Tokens:
        """`embedding`: a face recogniser's, of unit length; without a face, zeros."""
        return face_tokens(self.config, self.dtype, embedding)


class PerceiverAttention(nn.Module):
    """Latents attend to features and themselves, each normalised on its own; no biases; keys before values in to_kv."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Tokens, features: Float[Array, "b n d"]) -> Tokens:
        def dense(width: int, name: str, x: Array) -> Array:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)

        width = latents.shape[-1]
        features, own = LayerNorm(name="norm1")(features), LayerNorm(name="norm2")(latents)
        k, v = jnp.split(dense(2 * width, "to_kv", jnp.concatenate([features, own], axis=1)), 2, axis=-1)
        q, k, v = (split_heads(x, self.heads) for x in (dense(width, "to_q", own), k, v))
        return dense(width, "to_out", attention(q, k, v).reshape(latents.shape))


def resample(config: ImagePromptConfig, dtype: Any, latents: Tokens, features: Float[Array, "b n e"]) -> Tokens:
    """Layers `layers_i_0` (attention) and `layers_i_1_*` (feed-forward), both residual; called inside a compact method."""
    width = latents.shape[-1]
    features = nn.Dense(width, dtype=dtype, name="proj_in")(features)
    for i in range(config.depth):
        attend = PerceiverAttention(width // config.head_size, dtype, name=f"layers_{i}_0")
        latents = latents + attend(latents, features)
        hidden = LayerNorm(name=f"layers_{i}_1_0")(latents)
        hidden = gelu(nn.Dense(4 * width, use_bias=False, dtype=dtype, name=f"layers_{i}_1_1")(hidden))
        latents = latents + nn.Dense(width, use_bias=False, dtype=dtype, name=f"layers_{i}_1_3")(hidden)
    return LayerNorm(name="norm_out")(nn.Dense(config.width, dtype=dtype, name="proj_out")(latents))


class Resampler(nn.Module):
    """Learned latents gather from CLIP tokens; names latents, proj_in, layers_i_*, proj_out, norm_out."""

    config: ImagePromptConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "b n e"]) -> Tokens:
        """`hidden`: CLIP's penultimate hidden states; without a picture, those of an all-zero normalised image."""
        config = self.config
        shape = (1, config.tokens, config.width)
        latents = self.param("latents", nn.initializers.normal(config.width**-0.5), shape).astype(self.dtype)
        return resample(config, self.dtype, jnp.broadcast_to(latents, (len(hidden), *shape[1:])), hidden)


class FaceResampler(nn.Module):
    """The resampler with given latents."""

    config: ImagePromptConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Tokens, hidden: Float[Array, "b n e"]) -> Tokens:
        return resample(self.config, self.dtype, latents, hidden)


class FacePlusProjection(nn.Module):
    """A face embedding's tokens gather from CLIP tokens; names proj_0, proj_2, norm, perceiver_resampler."""

    config: ImagePromptConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "b e"], hidden: Float[Array, "b n h"], scale: float = 1.0) -> Tokens:
        """`scale` weighs CLIP's part if the config has the shortcut."""
        tokens = face_tokens(self.config, self.dtype, embedding)
        gathered = FaceResampler(self.config, self.dtype, name="perceiver_resampler")(tokens, hidden)
        return tokens + scale * gathered if self.config.shortcut else gathered


PROJECTIONS: dict[str, type[nn.Module]] = {
    "plain": PlainProjection,
    "plus": Resampler,
    "full": FullProjection,
    "face_id": FaceProjection,
    "face_id_plus": FacePlusProjection,
}


PUBLISHED = {
    "ip_adapter_sd15": ImagePromptConfig("plain", tokens=4),
    "ip_adapter_plus_face_sd15": ImagePromptConfig("plus"),
    "ip_adapter_full_face_sd15": ImagePromptConfig("full"),
    "ip_adapter_faceid_sd15": ImagePromptConfig("face_id", tokens=4),
    "ip_adapter_faceid_plus_sd15": ImagePromptConfig("face_id_plus", tokens=4),
    "ip_adapter_faceid_portrait_sd15": ImagePromptConfig("face_id", tokens=16),
}
"""Released adapters for Stable Diffusion 1.5; version 2 of FaceID-plus sets `shortcut`."""


def image_projection(config: ImagePromptConfig, dtype: Any = jnp.float32) -> nn.Module:
    """The projection of one adapter; its call takes what its class says and returns tokens (b, tokens, width)."""
    return PROJECTIONS[config.kind](config, dtype)


class ImagePromptAttention(nn.Module):
    """values + scale · softmax(q k_ip) v_ip: a second attention of the same queries; names to_k_ip_0, to_v_ip_0."""

    heads: int
    scale: float = 1.0
    dtype: Any = jnp.float32
    over_time: str | None = None
    """How tokens that frames have for themselves become those of the clip, see `nn.spatio_temporal`; None: each frame reads its
    own."""

    @nn.compact
    def __call__(
        self, values: Float[Array, "b f n c"], tokens: Float[Array, "b *f k d"], queries: Float[Array, "b f n c"]
    ) -> Float[Array, "b f n c"]:
        """`tokens` belong to clips, or to each of their frames."""
        if self.over_time is not None:
            tokens = of_clip(tokens, self.over_time)
        items, width = of_frames(tokens), values.shape[-1]
        k, v = (
            split_heads(nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(items), self.heads)
            for name in ("to_k_ip_0", "to_v_ip_0")
        )
        own = attention(split_heads(queries.reshape(len(items), -1, width), self.heads), k, v)
        return values + self.scale * own.reshape(values.shape)


def image_prompt_slot(heads: int, scale: float = 1.0, field: str = "image_tokens") -> Slot:
    """Puts the second attention into every cross-attention of a backbone with `heads` heads.

    Without the field in the conditioning the result is the base's. `scale` (0…1.5): how strongly the picture speaks.
    """

    def make(site, *, dtype, name):
        return ImagePromptAttention(heads, scale, dtype, name=name)

    return Slot("in_attn2", "processor", make, field=field)


LORA_LAYERS = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out_0": "to_out_lora"}
"""Projection of a spatial attention → its update, `<attention>/processor/<update>/{down,up}/kernel`."""


def _updated(params: PyTree) -> dict[tuple[str, ...], Array]:
    """The kernels of all spatial attentions (attn1, attn2) of a backbone, by path."""
    flat = traverse_util.flatten_dict(params)
    return {
        path: leaf
        for path, leaf in flat.items()
        if path[-1] == "kernel" and path[-2] in LORA_LAYERS and path[-3] in ("attn1", "attn2")
    }


def _lora_path(path: tuple[str, ...], part: str) -> tuple[str, ...]:
    return (*path[:-2], "processor", LORA_LAYERS[path[-2]], part, "kernel")


def init_lora(rng: PRNGKeyArray, params: PyTree, rank: int = 128) -> PyTree:
    """Low-rank updates of all spatial attentions of a backbone's `params`: random down, zero up, so that none acts yet."""
    made = {}
    for i, (path, kernel) in enumerate(_updated(params).items()):
        inputs, outputs = kernel.shape
        down = jax.random.normal(jax.random.fold_in(rng, i), (inputs, rank)) / rank
        made[_lora_path(path, "down")], made[_lora_path(path, "up")] = down, jnp.zeros((rank, outputs))
    return traverse_util.unflatten_dict(made)


def split_lora(params: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
    """(backbone, low-rank updates) of what an import puts under one name: `merge_lora(*split_lora(params), scale)`."""
    ends = {(update, part) for update in LORA_LAYERS.values() for part in ("down", "up")}
    flat = traverse_util.flatten_dict(params)
    updates = {path: flat.pop(path) for path in list(flat) if path[-3:-1] in ends}
    return traverse_util.unflatten_dict(flat), traverse_util.unflatten_dict(updates)


def merge_lora(
    params: Mapping[str, PyTree], lora: Mapping[str, PyTree], scale: float | Float[Array, ""] = 1.0
) -> PyTree:
    """A backbone's parameters with kernel + scale · down · up in every attention that `lora` names.

    Differentiable in both. Raises CheckpointError if `lora` names a layer that the backbone does not have.
    """
    flat, updates = traverse_util.flatten_dict(params), traverse_util.flatten_dict(lora)
    paths = [path for path in _updated(params) if _lora_path(path, "down") in updates]
    known = {_lora_path(path, part) for path in paths for part in ("down", "up")}
    if unknown := {"/".join(path) for path in updates if path not in known}:
        raise CheckpointError(f"{len(unknown)} low-rank updates fit no attention of the backbone: {listed(unknown)}")
    for path in paths:
        flat[path] = flat[path] + scale * updates[_lora_path(path, "down")] @ updates[_lora_path(path, "up")]
    return traverse_util.unflatten_dict(flat)
