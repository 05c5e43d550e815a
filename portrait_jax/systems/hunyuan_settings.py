"""What `systems.hunyuan_portrait` is told beside the sizes of its networks, and how conditions are withheld."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from portrait_jax.adapters.decoupled_motion import STARTS
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Bool

ANGLES = 6
"""Last features of a motion token: three angles in degrees, and three places for the translation, which stay zero."""

RANGES = ("01", "pm1")


@dataclass(frozen=True)
class PortraitConfig:
    """How the networks are put together; the defaults are the release's."""

    image_tokens: int = 64
    encoder_size: int = 224
    """Pixels of the picture that the image encoder sees."""
    identity: bool = True
    """Whether a face recogniser tells who it is; False: zeros."""
    identity_range: str = "01"
    """Of the aligned face that it sees: "01" as the release feeds it, or "pm1"."""
    head_pose: bool = True
    """Whether the angles of the head are told (release); False: expression alone (paper)."""
    scaled_portrait: bool = False
    """Whether the portrait's latents beside the noisy ones are scaled as these are; Stable Video Diffusion's are not."""
    motion_scale: float = 1.0
    """How strongly motion speaks in cross-attention."""
    motion_start: str = "copied"
    """What fresh motion attention begins with (`adapters.decoupled_motion.STARTS`): copies of the portrait's keys and values, or
    values of zero."""
    fps: float = 12.5
    bucket: float = 0.0
    noise: float = 0.0
    """The three numbers that the backbone is told."""

    def __post_init__(self) -> None:
        for name, known in (("identity_range", RANGES), ("motion_start", list(STARTS))):
            if (chosen := getattr(self, name)) not in known:
                raise ConfigError(f"{name} '{chosen}' does not exist{nearest(chosen, known)}")


@dataclass(frozen=True)
class LossConfig:
    """Training, which was never released and of which the paper leaves most open: see docs/hunyuan_portrait.md."""

    diffusion: float = 1.0
    """Weight of the diffusion loss."""
    teacher: float = 0.0
    """Weight of `landmark_teacher.teacher_loss`, a warm-up that the paper does not have."""
    level_mean: float = 0.7
    level_deviation: float = 1.6
    """Of ln σ̂ (Stable Video Diffusion)."""
    drop_all: float = 0.05
    """Share of clips trained without portrait and motion."""
    drop_motion: float = 0.1
    """Share of clips trained without motion alone."""
    drop_pose: float = 0.2
    """Share of clips whose skeletons are black."""


def check_equal(pairs: Mapping[str, tuple[int, int]]) -> None:
    """Raises ConfigError naming the first pair of sizes that are not equal."""
    for what, (one, other) in pairs.items():
        if one != other:
            raise ConfigError(f"{what} must be equal, not {one} and {other}")


def scaled(told: Conditioning, keep: Bool[Array, " b"], *fields: str) -> Conditioning:
    """`fields` of the clips where `keep` is not set become zeros, as guidance has them."""

    def times(value: Array) -> Array:
        return value * keep.reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype)

    return told.replace(**{name: times(getattr(told, name)) for name in fields})


def without(told: Conditioning, *fields: str) -> Conditioning:
    """The conditioning with zeros for some fields."""
    return told.replace(**{name: jnp.zeros_like(getattr(told, name)) for name in fields})
