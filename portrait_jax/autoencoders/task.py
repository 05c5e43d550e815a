"""Training of the image and the video autoencoder: reconstruction, edges, and a weak pull towards a normal posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.autoencoders.causal import CausalAutoencoder, CausalConfig, decode_streamed
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig, sample_latent
from portrait_jax.autoencoders.pixels import to_pm1, to_u8
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Image, Params, PRNGKeyArray, PyTree, UInt8


@dataclass(frozen=True)
class KLLossConfig:
    """Weights of the three terms.

    No perceptual or adversarial term: both need pretrained networks or long training, and the smooth shading of the
    procedural portraits does not call for them. The edge term keeps lids, lashes and lip lines, which cover few pixels.
    """

    edges: float = 1.0
    """Weight of the mean absolute difference of neighbouring-pixel differences."""
    kl: float = 1e-4
    """Weight of the KL divergence to a unit normal, a mean over latent values; only keeps the latents bounded."""


def decode_whole(network: AutoencoderKL, params: PyTree, latent: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
    """Pictures of unscaled latents."""
    return network.apply({"params": params}, latent, method="decode")


@dataclass(frozen=True)
class AutoencoderTask:
    """Trains an `AutoencoderKL` on batches `{"image": u8 "b h w 3"}`.

    The metric `latent_std` is what the config's `scaling_factor` must be the inverse of (Rombach et al. 2022, §D.1).
    """

    config: Any
    loss_config: KLLossConfig
    stages: Mapping[str, Stage]
    image_size: int
    dtype: Any
    name: str = "autoencoder"
    batch_keys: ClassVar[tuple[str, ...]] = ("image",)
    settings: ClassVar[type] = KLConfig
    """What `model.autoencoder` holds."""
    decode: ClassVar[Callable[..., Array]] = staticmethod(decode_whole)
    """(network, params, unscaled latents) → pictures."""

    @classmethod
    def from_config(cls, config: Any) -> AutoencoderTask:
        """Builds the task from `config.model.autoencoder`, `config.loss` and `config.train`; raises `ConfigError`."""
        return cls(
            config=from_mapping(cls.settings, config.model.autoencoder),
            loss_config=from_mapping(KLLossConfig, config.loss),
            stages={config.stage: Stage.from_config(config.train)},
            image_size=config.model.image_size,
            dtype=compute_dtype(config.compute_dtype),
        )

    @property
    def network(self) -> Any:
        return AutoencoderKL(self.config, dtype=self.dtype)

    @property
    def example(self) -> tuple[int, ...]:
        """Shape of one picture to initialise with."""
        return (self.image_size, self.image_size, 3)

    def init(self, rng: PRNGKeyArray, stage: str = "train") -> Params:
        return {"autoencoder": self.network.init(rng, jnp.zeros((1, *self.example)))["params"]}

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str = "train"
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """L1 + edges + KL; metrics `l1` (in [−1, 1] units), `edges`, `kl`, `latent_std`, `psnr` in decibels."""
        image = to_pm1(batch[self.batch_keys[0]])
        mean, logvar = self.network.apply({"params": params["autoencoder"]}, image, method="encode")
        latent = sample_latent(rng, mean, logvar)
        decoded = self.decode(self.network, params["autoencoder"], latent).astype(jnp.float32)
        mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
        l1 = jnp.abs(decoded - image).mean()
        edges = sum(jnp.abs(jnp.diff(decoded, axis=axis) - jnp.diff(image, axis=axis)).mean() for axis in (-3, -2))
        kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        loss = l1 + self.loss_config.edges * edges + self.loss_config.kl * kl
        psnr = -10 * jnp.log10(((decoded - image) ** 2).mean() / 4)
        return loss, {"l1": l1, "edges": edges, "kl": kl, "latent_std": mean.std(), "psnr": psnr}

    def samples(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str = "train"
    ) -> dict[str, Image]:
        """Two rows: up to eight images, and what the autoencoder makes of them."""
        image = to_pm1(batch[self.batch_keys[0]][:8])
        decoded = _reconstruct(self.decode, self.network, params["autoencoder"], image)
        rows = [np.concatenate(list(self.shown(to_u8(part))), axis=1) for part in (image, decoded)]
        return {"reconstruction": np.concatenate(rows, axis=0)}

    def shown(self, pictures: UInt8[np.ndarray, "n ..."]) -> UInt8[np.ndarray, "m h w 3"]:
        """The pictures of a row."""
        return pictures


@dataclass(frozen=True)
class VideoAutoencoderTask(AutoencoderTask):
    """Trains a `CausalAutoencoder` on batches `{"frames": u8 "b f h w 3"}`, decoded piece by piece as in sampling."""

    name: str = "video_autoencoder"
    batch_keys: ClassVar[tuple[str, ...]] = ("frames",)
    settings: ClassVar[type] = CausalConfig
    decode: ClassVar[Callable[..., Array]] = staticmethod(decode_streamed)

    @property
    def network(self) -> CausalAutoencoder:
        return CausalAutoencoder(self.config, dtype=self.dtype)

    @property
    def example(self) -> tuple[int, ...]:
        return (1, self.image_size, self.image_size, 3)

    def shown(self, pictures: UInt8[np.ndarray, "n ..."]) -> UInt8[np.ndarray, "m h w 3"]:
        """The last frame of each clip."""
        return pictures[:, -1]


@partial(jax.jit, static_argnums=(0, 1))
def _reconstruct(decode: Callable[..., Array], network: Any, params: PyTree, image_pm1: Array) -> Array:
    mean, _ = network.apply({"params": params}, image_pm1, method="encode")
    return decode(network, params, mean)
