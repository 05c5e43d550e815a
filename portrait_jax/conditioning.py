"""What a backbone is told besides the noise: one structure for all systems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from portrait_jax.typing import Array, Float, Int

SHARED = ("memory",)
"""Fields that all guidance branches have in common: the same arrays in each, and in memory once."""
PER_FRAME = ("spatial", "level_residuals", "skip_residuals", "control", "audio", "motion", "known", "given")
"""Fields that carry a frame axis (axis 1); `window` slices exactly these."""


@struct.dataclass
class Anchor:
    """What a UNet's features are brought to at one step of a later window (`adapters.anchor`)."""

    statistics: Mapping[str, Float[Array, "b 2 c"]]
    """Site → mean and deviation per channel, as the first window had them at the same step."""
    free: Float[Array, "b f"]
    """1 for frames that are brought to them; both are measured over these."""
    strength: Float[Array, " b"]
    """0 … 1, how far; 0 only measures."""


@struct.dataclass
class FeatureCache:
    """What a network is told where its deep features outlive a solver step (`diffusion.caching`): it then returns a pair, its
    prediction and these features."""

    depth: int = struct.field(pytree_node=False)
    """How many of a UNet's last layers are computed anew where there are features; a transformer skips all of its blocks."""
    deep: Array | None = None
    """The features of an earlier step, "b …"; None: the whole network runs."""


@struct.dataclass
class Conditioning:
    """Everything that does not depend on the noise level; computed once per clip.

    A backbone reads the fields that its config names and never asks which system it serves. All fields are optional.
    """

    image_tokens: Float[Array, "b *f k d"] | None = None
    """Tokens of the portrait for cross-attention, before the backbone's own projection; zeros = dropped. With a frame axis
    (backbones that read such) every frame has its own."""
    text: Float[Array, "b k d"] | None = None
    """Tokens of the prompt; an adapter's own attention then reads `image_tokens` beside them."""
    reference: Mapping[str, Float[Array, "b n d"]] | None = None
    """Block path → reference tokens joined to that block's self-attention, shared by all frames."""
    memory: tuple[Float[Array, "layers b m heads d"], Float[Array, "layers b m heads d"]] | None = None
    """Keys and values of reference tokens for every layer's self-attention, computed once per clip; see `SHARED`."""
    reference_mask: Float[Array, " b"] | None = None
    """1 attends to the reference tokens, 0 computes as if there were none (guidance, drop-out). None: all ones."""
    spatial: Float[Array, "b f h w c"] | None = None
    """Residual added after the backbone's first convolution."""
    level_residuals: tuple[Float[Array, "b f _ _ _"], ...] | None = None
    """One residual per level of the encoder, finest first (T2I-Adapter)."""
    skip_residuals: tuple[Float[Array, "b f _ _ _"], ...] | None = None
    """One residual per skip connection in running order, then one for the middle block (ControlNet)."""
    control: Float[Array, "b f H W 3"] | None = None
    """Control pictures in [0, 1], for a network that reads them together with the noise (ControlNet)."""
    audio: Float[Array, "b f k d"] | None = None
    """Tokens of what sounds around each frame; zeros = dropped."""
    motion: Float[Array, "b f k d"] | None = None
    """Tokens of what the face does in each frame."""
    known: Float[Array, "b f h w c"] | None = None
    """Clean latents of the frames that are given, zeros for the others (`long_video.known`)."""
    given: Float[Array, "b f"] | None = None
    """1 for frames whose clean latents are given, 0 for frames that the network has to make."""
    portrait: Float[Array, "b h w c"] | None = None
    """Clean latents of the portrait, shared by all frames; zeros = dropped."""
    ids: Float[Array, "b d"] | None = None
    """Numbers that a backbone is told of a clip beside the noise level: frames per second, how much moves, how noisy the portrait's
    latents are."""
    cache: FeatureCache | None = None
    """Deep features of an earlier solver step, of one step."""
    anchor: Anchor | None = None
    """Statistics that features are brought to, of one step."""
    start: Float[Array, "b h w c"] | None = None
    """Clean latents that sampling starts around, in every frame: noise of the first level is added to them. None: pure noise."""

    if TYPE_CHECKING:  # flax makes it, and does not tell.

        def replace(self, **changes: Any) -> Self: ...

    def window(self, start: int | Array, length: int) -> Conditioning:
        """Slices the per-frame fields to frames `start … start+length`; `start` may be traced."""

        def cut(value):
            return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length, axis=1), value)

        return self.replace(**{name: cut(getattr(self, name)) for name in self._framed()})

    def take(self, frames: Int[Array, " g"]) -> Conditioning:
        """Picks frames of the per-frame fields, in any order; `frames` may be traced."""

        def pick(value):
            return jax.tree.map(lambda leaf: jnp.take(leaf, frames, axis=1), value)

        return self.replace(**{name: pick(getattr(self, name)) for name in self._framed()})

    def windows(self, frames: Int[Array, "win t"]) -> Conditioning:
        """Picks the frames of several windows, which become items of the batch axis (`b0w0 b0w1 … b1w0 …`); all else is repeated
        for each."""
        count, length = frames.shape
        framed, taken = self._framed(), self.take(frames.reshape(-1))
        own = {
            name: jax.tree.map(lambda leaf: leaf.reshape(-1, length, *leaf.shape[2:]), getattr(taken, name))
            for name in framed
        }
        return self.replace(**dict.fromkeys(framed)).repeat(count).replace(**own)

    def _framed(self) -> tuple[str, ...]:
        """The fields that carry a frame axis here."""
        tokens = self.image_tokens
        return (*PER_FRAME, "image_tokens") if tokens is not None and tokens.ndim == 4 else PER_FRAME

    def frame_counts(self) -> dict[str, int]:
        """Name of every per-frame field that is set → how many frames it covers."""
        fields = {name: getattr(self, name) for name in self._framed()}
        return {name: jax.tree.leaves(value)[0].shape[1] for name, value in fields.items() if value is not None}

    def repeat(self, count: int) -> Conditioning:
        """Repeats the batch axis `count` times, item by item (`b0 b0 b1 b1`)."""
        if count == 1:
            return self
        memory = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=1), self.memory)
        rest = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), self.replace(memory=None))
        return rest.replace(memory=memory)


def dropped(conditioning: Conditioning, keep: Float[Array, " b"]) -> Conditioning:
    """Where `keep` is 0: zero image tokens, no reference features and zero latents of the portrait, together: nothing says whose
    face it is."""
    zeroed = {
        name: value * keep.reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype)
        for name in ("image_tokens", "portrait")
        if (value := getattr(conditioning, name)) is not None
    }
    return conditioning.replace(reference_mask=keep, **zeroed)
