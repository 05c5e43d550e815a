"""What every latent-diffusion system does alike: frames to latents and back, and the noise of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.autoencoders.kl import KLConfig, sample_latent
from portrait_jax.autoencoders.tiled import decode_tiled
from portrait_jax.diffusion.noise import mixed_noise
from portrait_jax.diffusion.schedule import Schedule, add_noise
from portrait_jax.diffusion.solvers import Solver, make_solver
from portrait_jax.sharding.activations import items_apart
from portrait_jax.sharding.mesh import AXES, BATCH_AXES
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.typing import Array, Float, Int, Params, PRNGKeyArray


def encode_frames(
    autoencoder: Any,
    params: Params,
    image_pm1: Float[Array, "b f H W 3"],
    scaling: float,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b f h w c"]:
    """Images in [−1, 1] → posterior means, or with a key draws around them, times `scaling`; float32, frame by frame."""
    frames = rearrange(image_pm1, "b f h w c -> (b f) h w c")
    mean, logvar = autoencoder.apply({"params": params}, frames, method="encode")
    drawn = mean if key is None else sample_latent(key, mean, logvar)
    return rearrange(drawn.astype(jnp.float32) * scaling, "(b f) h w c -> b f h w c", b=image_pm1.shape[0])


def decode_frames(
    autoencoder: Any, params: Params, latents: Float[Array, "b f h w c"], scaling: float
) -> Float[Array, "b f H W 3"]:
    """Scaled latents → images in [−1, 1], frame by frame; over a mesh each device decodes its own frames, where it divides them."""
    frames = items_apart(rearrange(latents / scaling, "b f h w c -> (b f) h w c"), AXES, BATCH_AXES)
    images = autoencoder.apply({"params": params}, frames, method="decode")
    return rearrange(images, "(b f) h w c -> b f h w c", b=latents.shape[0])


class LatentDiffusion:
    """What systems on an image autoencoder's latents have in common; each is a dataclass with the fields named here."""

    autoencoder_config: KLConfig
    schedule: Schedule
    sampling: SamplingConfig
    image_size: int
    prediction: str
    temporal_decoder: bool = False

    @property
    def autoencoder(self) -> Any:
        """The module that `autoencoder_config` describes."""
        raise NotImplementedError

    def solver(self, steps: int) -> Solver:
        """The solver that `sampling` names; raises ConfigError for settings that do not fit."""
        chosen = self.sampling
        return make_solver(
            chosen.solver, self.schedule, steps, self.prediction, chosen.spacing,
            previous=chosen.previous, offset=chosen.offset,
        )  # fmt: skip

    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one frame's latent."""
        side = self.image_size // self.autoencoder_config.stride
        return side, side, self.autoencoder_config.latent_channels

    def to_latents(
        self, params: Params, image_pm1: Float[Array, "b f H W 3"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b f h w c"]:
        """`encode_frames` by the system's own autoencoder."""
        scaling = self.autoencoder_config.scaling_factor
        return encode_frames(self.autoencoder, params["autoencoder"], image_pm1, scaling, key)

    def decode(self, params: Params, latents: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """`decode_frames` by the system's own autoencoder, in the tiles that `sampling` says."""

        def decode(part: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
            return decode_frames(self.autoencoder, params["autoencoder"], part, self.autoencoder_config.scaling_factor)

        return decode_tiled(decode, latents, self.sampling.decode_tile, self.sampling.decode_overlap)

    def decode_clips(
        self, params: Params, latents: Float[Array, "b f h w c"], length: int
    ) -> Float[Array, "b f H W 3"]:
        """Latents → images in [−1, 1] by an autoencoder whose decoder sees `length` frames together, in the tiles that `sampling`
        says."""
        unscaled, chosen = latents / self.autoencoder_config.scaling_factor, self.sampling
        clips = [unscaled[:, first : first + length] for first in range(0, latents.shape[1], length)]
        decode = partial(self.autoencoder.apply, {"params": params["autoencoder"]}, method="decode")
        return jnp.concatenate(
            [decode_tiled(decode, clip, chosen.decode_tile, chosen.decode_overlap) for clip in clips], axis=1
        )


def weighted(
    weights: Any, found: Mapping[str, Float[Array, ""]]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """A loss of named terms, each times the field of `weights` of its name, and the metrics: `plain` is what is shown in the place
    of `diffusion`, which has weights of its own in it."""
    terms = {name: error for name, error in found.items() if name != "plain"}
    loss = sum((getattr(weights, name) * error for name, error in terms.items()), jnp.zeros(()))
    return loss, {**terms, **({"diffusion": found["plain"]} if "plain" in found else {})}


class Noised(NamedTuple):
    """Frames of a training step, each for itself.

    Attributes:
        clean, noise, noisy: latents, the noise, and their mixture.
        timestep: how much noise there is.
    """

    clean: Float[Array, "n h w c"]
    noise: Float[Array, "n h w c"]
    noisy: Float[Array, "n h w c"]
    timestep: Int[Array, " n"]


def noised(
    schedule: Schedule,
    latents: Float[Array, "b f h w c"],
    level: PRNGKeyArray,
    noise: PRNGKeyArray,
    *,
    temporal: bool,
    share: float = 0.0,
) -> Noised:
    """Latents at random noise levels: one per clip if `temporal`, otherwise one per frame.

    Single frames share what a portrait costs that way, and learn from several levels at once.

    Args:
        level, noise: keys of the two draws.
        share: correlation between the noise of a clip's frames (`diffusion.noise`), if `temporal`.
    """
    clips, frames = latents.shape[:2]
    drawn = jax.random.randint(level, (clips, 1 if temporal else frames), 0, schedule.length)
    timestep = jnp.broadcast_to(drawn, (clips, frames)).reshape(-1)
    own = jax.random.normal(noise, latents.shape)
    if temporal:
        common = jax.random.normal(jax.random.fold_in(noise, 1), (clips, 1, *latents.shape[2:]))
        own = mixed_noise(own, common, share)
    clean, own = (rearrange(x, "b f h w c -> (b f) h w c") for x in (latents, own))
    return Noised(clean, own, add_noise(schedule, clean, own, timestep), timestep)
