"""Animates by clips that go on from the pixels of the one before (`long_video.continued`): the system samples and decodes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.animation.signals import Signals, stacked
from portrait_jax.autoencoders.pixels import to_u8
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.continued import Clips
from portrait_jax.sharding.placing import Placing
from portrait_jax.systems.system import System
from portrait_jax.typing import Array, Float, Image, Int, Params, PRNGKeyArray, UInt8


class ContinuedSystem(System, Protocol):
    """A system that makes clips itself, since each begins with pixels of the one before."""

    height: int
    width: int

    def encode_portrait(
        self,
        params: Params,
        portrait_u8: UInt8[Array, "b h w 3"],
        told: Mapping[str, Array] | None = None,
        rng: PRNGKeyArray | None = None,
    ) -> Conditioning:
        """What all clips have in common; `told` are signals without an axis of frames."""
        ...

    def picture(self, picture_u8: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b H W 3"]:
        """Pictures in [−1, 1] as clips go on from them."""
        ...

    def sample_clips(
        self,
        params: Params,
        person: Conditioning,
        portrait_u8: UInt8[Array, "b h w 3"],
        windows: Float[Array, "clips b f win layers d"],
        rng: PRNGKeyArray,
        carry: Float[Array, "b g H W 3"] | None = None,
        first: int | Array = 0,
    ) -> tuple[Float[Array, "b g H W 3"], Float[Array, "b frames H W 3"]]:
        """The carry for the clips that follow, and the new frames of these."""
        ...


def continued(system: System) -> ContinuedSystem:
    """The system itself; raises ConfigError if it does not make clips."""
    if not hasattr(system, "sample_clips"):
        raise ConfigError(
            f"sampling.strategy 'continued' is the way of systems that make clips themselves, which {system.name} does not; choose "
            "another one"
        )
    return system  # type: ignore[return-value]


def blank(system: System, clips: Clips, portraits: int = 1) -> np.ndarray:
    """Stands for what the first clip goes on from, which is made of the portrait."""
    made = continued(system)
    return np.zeros((portraits, clips.overlap, made.height, made.width, 3), np.float32)


def windows_of(
    signals: Sequence[Signals], frames: Int[np.ndarray, "size length"]
) -> Float[np.ndarray, "size b length ..."]:
    """The sound that each frame of some clips hears, for each portrait; nothing before the video's first frame, which has number
    −1.
    """

    def one(each: Signals) -> np.ndarray:
        heard = each.at(np.maximum(frames, 0).reshape(-1))["audio"]
        sounds = (frames >= 0).reshape(*frames.shape, *[1] * (heard.ndim - 1))
        return (heard.reshape(*frames.shape, *heard.shape[1:]) * sounds).astype(np.float32)

    return np.stack([one(each) for each in signals], axis=1)


def sample_in_clips(
    system: ContinuedSystem,
    encode: Callable[..., Conditioning],
    sample: Callable[..., tuple[Array, Array]],
    params: Params,
    portraits: Sequence[Image],
    signals: Sequence[Signals],
    clips: Clips,
    size: int,
    key: PRNGKeyArray,
    first: int,
    carry: Float[np.ndarray, "b g H W 3"],
    placing: Placing,
) -> Iterator[tuple[UInt8[np.ndarray, "b f h w 3"], int, np.ndarray]]:
    """Yields, chunk by chunk of `size` clips, the new frames at the portraits' size, and the clip and carry to go on from.

    Args:
        encode, sample: its `encode_portrait` and `sample_clips`, compiled.
        first, carry: where to go on: what an earlier run yielded, or 0 and `blank`.
        placing: where what they are given lies.
    """
    keys, pictures = jax.random.split(key), np.stack(portraits)
    image, still = placing.items((pictures, stacked([each.still for each in signals])))
    person = placing.told(encode(params, image, still, keys[0]))
    if not first:
        carry = np.repeat(np.asarray(system.picture(jnp.asarray(pictures)))[:, None], clips.overlap, axis=1)
    for number in range(first, clips.count, size):
        windows = placing.items(windows_of(signals, clips.told(number, size)), 1)
        held, video = sample(params, person, image, windows, keys[1], placing.items(carry), np.int32(number))
        carry = np.asarray(held)
        count = clips.first_frame(number + size) - clips.first_frame(number)
        yield middle_of(to_u8(video[:, :count]), pictures.shape[1:3]), number + size, carry


def middle_of(video: UInt8[np.ndarray, "b f h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "b f rows columns 3"]:
    """The middle `size` (height, width) of frames: what a picture on bars shows."""
    top, left = ((whole - part) // 2 for whole, part in zip(video.shape[2:4], size))
    return video[:, :, top : top + size[0], left : left + size[1]]
