"""The suite `networks`: every network of the Stable Diffusion family at its published size, and small for tests.

A network is a row of `NETWORKS`; its original in PyTorch stands under the same name in `torch_networks.ORIGINALS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.adapters import ControlNet, ControlNetConfig, T2IAdapter, T2IAdapterConfig
from portrait_jax.adapters.image_prompt import PUBLISHED, ImagePromptConfig, image_projection, image_prompt_slot
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig
from portrait_jax.autoencoders.tiny import TinyAutoencoder, TinyConfig
from portrait_jax.backbones import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders import (
    ArcFace,
    ArcFaceConfig,
    CLIPText,
    CLIPTextConfig,
    CLIPVision,
    CLIPVisionConfig,
    Wav2Vec2,
    Wav2Vec2Config,
)
from portrait_jax.nn.temporal import TemporalConfig, TemporalTransformer
from portrait_jax.typing import Array, PyTree

FRAMES = "b f h w c -> (b f) c h w"
VIDEO = "b f h w c -> b c f h w"
IMAGES = "b h w c -> b c h w"

POOL = 1 << 20
"""Random numbers drawn; larger parameters repeat them."""


@dataclass(frozen=True)
class Input:
    """One argument of a network; `torch` is the einops pattern that gives the original's layout, None: the same."""

    shape: tuple[int, ...]
    torch: str | None = None
    below: int | None = None
    """Token ids under this number instead of normal noise."""
    value: int | None = None
    """This integer everywhere instead of noise: a noise level."""

    @property
    def kind(self) -> type:
        """Of its numbers, before floating ones become what the benchmark computes in."""
        return np.float32 if self.value is None and self.below is None else np.int32

    def draw(self) -> np.ndarray:
        """Noise, the value, or ids."""
        rng = np.random.default_rng(1)
        if self.value is not None:
            return np.full(self.shape, self.value, np.int32)
        if self.below is not None:
            return rng.integers(0, self.below, self.shape, dtype=np.int32)
        return rng.standard_normal(self.shape, dtype=np.float32)


@dataclass(frozen=True)
class Size:
    """A network's config and its inputs by name."""

    config: Any
    inputs: Mapping[str, Input]


@dataclass(frozen=True)
class Network:
    """`make(config, dtype)` gives the module; `call(run, **inputs)` one forward, where `run` is its `apply` or `init`."""

    title: str
    make: Callable[[Any, Any], nn.Module]
    call: Callable[..., Any]
    full: Size
    small: Size

    def module(self, size: str, dtype: Any) -> nn.Module:
        """The module at size "full" or "small"."""
        return self.make(self.size(size).config, dtype)

    def size(self, name: str) -> Size:
        return self.full if name == "full" else self.small

    def shapes(self, size: str, dtype: Any) -> PyTree:
        """The parameters' shapes (float32, as modules make them)."""
        module = self.module(size, dtype)
        inputs = {name: jax.ShapeDtypeStruct(entry.shape, entry.kind) for name, entry in self.size(size).inputs.items()}
        return jax.eval_shape(
            lambda key, given: self.call(partial(module.init, key), **given), jax.random.key(0), inputs
        )

    def variables(self, size: str, dtype: Any) -> PyTree:
        """Random parameters of `dtype` on the default device, without compiling an initialiser."""
        return filled(self.shapes(size, dtype), dtype)


def filled(shapes: PyTree, dtype: Any) -> PyTree:
    """Numbers that keep activations finite: kernels as at initialisation, scales and variances one, the rest small."""
    pool = np.random.default_rng(0).standard_normal(POOL, dtype=np.float32)

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> Array:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("scale", "running_var"):
            return jnp.ones(shape.shape, dtype)
        size = np.prod(shape.shape[:-1]) ** -0.5 if name == "kernel" else 0.02
        return jax.device_put(np.resize(pool * np.float32(size), shape.shape).astype(dtype))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def run_unet(run: Callable, x: Array, timestep: Array, text: Array) -> Array:
    return run(x, timestep, Conditioning(text=text))


def run_prompted(run: Callable, x: Array, timestep: Array, text: Array, tokens: Array) -> Array:
    return run(x, timestep, Conditioning(text=text, image_tokens=tokens))


def run_positional(run: Callable, **inputs: Array) -> Any:
    return run(*inputs.values())


def run_method(method: str, run: Callable, x: Array) -> Any:
    return run(x, method=method)


def run_embedding(run: Callable, pixels: Array) -> Array:
    return run(pixels, embed=True)


def run_identity(run: Callable, face: Array) -> Array:
    return run(face, unit=False)


def latents(frames: int, size: int) -> Input:
    return Input((1, frames, size, size, 4), VIDEO if frames > 1 else FRAMES)


def denoising(config: UNetConfig, frames: int, size: int, tokens: int) -> Size:
    """Noisy latents, a noise level and text tokens."""
    text = Input((1, tokens, config.context_dim or 0))
    return Size(config, {"x": latents(frames, size), "timestep": Input((1,), value=501), "text": text})


def controlled(config: ControlNetConfig, size: int, tokens: int) -> Size:
    """The same with a control picture before the text."""
    plain = denoising(config.unet, 1, size, tokens).inputs
    pixels = size * config.hint.stride
    return Size(config, plain | {"image": Input((1, 1, pixels, pixels, 3), FRAMES), "text": plain["text"]})


def prompted(config: UNetConfig, size: int, tokens: int, picture: int) -> Size:
    """Text tokens, and `picture` tokens of an image prompt."""
    plain = denoising(config, 1, size, tokens).inputs
    return Size(config, plain | {"tokens": Input((1, picture, config.context_dim or 0))})


def pictures(config: Any, size: int, channels: int = 3, name: str = "x") -> Size:
    return Size(config, {name: Input((1, size, size, channels), IMAGES)})


SD15 = UNetConfig(context_field="text")
MOTION = TemporalConfig(joint_norm=True)
"""AnimateDiff v2 with diffusers' joint norms, so that both sides compute the same."""
MOTION_V3 = TemporalConfig(mid=False, joint_norm=True)
SMALL = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_levels=(True, False),
    num_heads=2,
    context_dim=16,
    context_field="text",
)
SMALL_MOTION = TemporalConfig(num_heads=2, max_length=8, joint_norm=True)


def with_motion(config: UNetConfig, motion: TemporalConfig) -> UNetConfig:
    return replace(config, temporal=motion)


NETWORKS: dict[str, Network] = {
    "unet": Network(
        "Stable Diffusion 1.5 UNet", lambda c, d: UNet(c, (), d), run_unet,
        denoising(SD15, 1, 64, 77), denoising(SMALL, 1, 8, 5),
    ),
    "motion_unet": Network(
        "UNet with AnimateDiff v2 motion modules, 16 frames", lambda c, d: UNet(c, (), d), run_unet,
        denoising(with_motion(SD15, MOTION), 16, 32, 77), denoising(with_motion(SMALL, SMALL_MOTION), 3, 8, 5),
    ),
    "motion_unet_v3": Network(
        "UNet with AnimateDiff v3 motion modules, 16 frames", lambda c, d: UNet(c, (), d), run_unet,
        denoising(with_motion(SD15, MOTION_V3), 16, 32, 77),
        denoising(with_motion(SMALL, replace(SMALL_MOTION, mid=False)), 3, 8, 5),
    ),
    "motion_module": Network(
        "one AnimateDiff motion module, v2 or v3, 16 frames", TemporalTransformer, run_positional,
        Size(MOTION, {"x": Input((1, 16, 64, 64, 320), FRAMES)}),
        Size(SMALL_MOTION, {"x": Input((1, 3, 8, 8, 32), FRAMES)}),
    ),
    "controlnet": Network(
        "ControlNet", ControlNet,
        lambda run, x, timestep, image, text: run(x, timestep, image, text),
        controlled(ControlNetConfig(SD15), 64, 77), controlled(ControlNetConfig(SMALL, (4, 8)), 8, 5),
    ),
    "t2i_adapter": Network(
        "T2I-Adapter", T2IAdapter, run_positional,
        Size(T2IAdapterConfig(), {"image": Input((1, 1, 512, 512, 3), FRAMES)}),
        Size(T2IAdapterConfig((8, 16), 1), {"image": Input((1, 1, 64, 64, 3), FRAMES)}),
    ),
    "ip_adapter": Network(
        "IP-Adapter plus-face projection", image_projection, run_positional,
        Size(ImagePromptConfig(), {"hidden": Input((1, 257, 1280))}),
        Size(ImagePromptConfig(tokens=3, width=128, depth=1), {"hidden": Input((1, 5, 24))}),
    ),
    "ip_adapter_plain": Network(
        "IP-Adapter, plain projection", image_projection, run_positional,
        Size(PUBLISHED["ip_adapter_sd15"], {"embedding": Input((1, 1024))}),
        Size(ImagePromptConfig("plain", tokens=3, width=32), {"embedding": Input((1, 24))}),
    ),
    "ip_adapter_faceid": Network(
        "IP-Adapter, FaceID projection", image_projection, run_positional,
        Size(PUBLISHED["ip_adapter_faceid_sd15"], {"embedding": Input((1, 512))}),
        Size(ImagePromptConfig("face_id", tokens=3, width=32), {"embedding": Input((1, 24))}),
    ),
    "ip_adapter_unet": Network(
        "UNet with IP-Adapter's attentions, 4 tokens (plain; FaceID with its updates merged)",
        lambda c, d: UNet(c, (image_prompt_slot(c.num_heads),), d), run_prompted,
        prompted(SD15, 64, 77, 4), prompted(SMALL, 8, 5, 3),
    ),
    "vae_encode": Network(
        "image autoencoder, encoder", AutoencoderKL, partial(run_method, "encode"),
        pictures(KLConfig(), 512), pictures(KLConfig((32, 32), 1), 16),
    ),
    "vae_decode": Network(
        "image autoencoder, decoder", AutoencoderKL, partial(run_method, "decode"),
        pictures(KLConfig(), 64, 4), pictures(KLConfig((32, 32), 1), 8, 4),
    ),
    "taesd_encode": Network(
        "preview autoencoder (TAESD), encoder", TinyAutoencoder, partial(run_method, "encode"),
        pictures(TinyConfig(), 512), pictures(TinyConfig(8, (1, 1), (1, 1)), 16),
    ),
    "taesd_decode": Network(
        "preview autoencoder (TAESD), decoder", TinyAutoencoder, partial(run_method, "decode"),
        pictures(TinyConfig(), 64, 4), pictures(TinyConfig(8, (1, 1), (1, 1)), 8, 4),
    ),
    "clip_text": Network(
        "CLIP ViT-L/14 text", CLIPText, run_positional,
        Size(CLIPTextConfig(), {"ids": Input((1, 77), below=49408)}),
        Size(CLIPTextConfig(99, 9, 32, 2, 2, 64), {"ids": Input((1, 9), below=97)}),
    ),
    "clip_vision": Network(
        "CLIP ViT-L/14 vision", CLIPVision, run_embedding,
        pictures(CLIPVisionConfig(), 224, name="pixels"),
        pictures(CLIPVisionConfig(32, 2, 2, 64, 14, 28, 16), 28, name="pixels"),
    ),
    "clip_vision_h": Network(
        "CLIP ViT-H/14 vision", CLIPVision, run_embedding,
        pictures(
            CLIPVisionConfig(hidden=1280, layers=32, mlp=5120, projection=1024, activation="gelu"), 224, name="pixels"
        ),
        pictures(CLIPVisionConfig(32, 2, 2, 64, 14, 28, 16, "gelu"), 28, name="pixels"),
    ),
    "wav2vec2": Network(
        "wav2vec2-base, 5 seconds", Wav2Vec2, run_positional,
        Size(Wav2Vec2Config(), {"samples": Input((1, 80000))}),
        Size(Wav2Vec2Config((32,) * 7, hidden=48, layers=1, heads=4, mlp=64), {"samples": Input((1, 2000))}),
    ),
    "arcface_50": Network(
        "ArcFace iResNet-50", ArcFace, run_identity,
        pictures(ArcFaceConfig(), 112, name="face"),
        pictures(ArcFaceConfig((1, 1), (8, 16), 12, 16), 16, name="face"),
    ),
    "arcface": Network(
        "ArcFace iResNet-100", ArcFace, run_identity,
        pictures(ArcFaceConfig((3, 13, 30, 3)), 112, name="face"),
        pictures(ArcFaceConfig((1, 1), (8, 16), 12, 16), 16, name="face"),
    ),
}  # fmt: skip
"""Name → network; the order is that of the table."""
