"""Training of the motion autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from portrait_jax.motion.quantizer import codebook_losses, distances, straight_through, usage
from portrait_jax.motion.vqvae import Motion, MotionVQ, MotionVQConfig
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray

STATISTICS = "motion_statistics"
"""Sub-network that holds `mean` and `std` of the latents, per channel: measured, not learnt (`launch.prepare`)."""


@dataclass(frozen=True)
class MotionVQLossConfig:
    """Weights of the terms beside the reconstruction."""

    velocity: float = 0.5
    """Of the reconstruction of differences between neighbouring frames."""
    codebook: float = 1.0
    commitment: float = 0.02
    revival: float = 0.1
    """See `quantizer.codebook_losses`."""


def smooth_l1(difference: Array) -> Float[Array, ""]:
    """The mean of x²/2 below 1 and |x| − 1/2 above."""
    size = jnp.abs(difference)
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def empty_statistics(width: int) -> Params:
    """What a model starts with where nothing was measured: latents as they are."""
    return {"mean": jnp.zeros(width), "std": jnp.ones(width)}


def standardise(statistics: Params, motion: Motion) -> Motion:
    """Latents to mean 0 and deviation 1 per channel."""
    return (motion - statistics["mean"]) / statistics["std"]


def restore_scale(statistics: Params, motion: Motion) -> Motion:
    """The inverse of `standardise`."""
    return motion * statistics["std"] + statistics["mean"]


@dataclass(frozen=True)
class MotionVQTask:
    """Trains a `MotionVQ` on batches `{"motion": "b f d"}`."""

    config: MotionVQConfig
    loss_config: MotionVQLossConfig
    stages: Mapping[str, Stage]
    dtype: Any
    name: str = "motion_vqvae"
    batch_keys: ClassVar[tuple[str, ...]] = ("motion",)

    @classmethod
    def from_config(cls, config: Any) -> MotionVQTask:
        """Builds the task from `config.model.vqvae`, `config.loss` and `config.train`; raises `ConfigError`."""
        return cls(
            config=from_mapping(MotionVQConfig, config.model.vqvae),
            loss_config=from_mapping(MotionVQLossConfig, config.loss),
            stages={config.stage: Stage.from_config(config.train)},
            dtype=compute_dtype(config.compute_dtype),
        )

    @property
    def network(self) -> MotionVQ:
        """The autoencoder's module."""
        return MotionVQ(self.config, self.dtype)

    def init(self, rng: PRNGKeyArray, stage: str = "vqvae") -> Params:
        """The autoencoder, and statistics that leave latents as they are until `init_from` brings measured ones."""
        motion = jnp.zeros((1, self.config.factor, self.config.motion))
        network = self.network.init(rng, motion)["params"]
        return {"vqvae": network, STATISTICS: empty_statistics(self.config.motion)}

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str = "vqvae"
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Reconstruction and velocity (smooth L1 of standardised motion), and the codebook's terms; metrics are these,
        unweighted, and how many codes the batch uses."""
        motion = standardise(params[STATISTICS], batch["motion"])
        variables, codebook = {"params": params["vqvae"]}, params["vqvae"]["codebook"]
        vectors = self.network.apply(variables, motion, method="vectors")
        spans = distances(vectors, codebook)
        chosen = spans.argmin(-1)
        passed = straight_through(vectors, codebook[chosen])
        found = self.network.apply(variables, passed, method="decode_vectors")
        terms = {
            "recon": smooth_l1(found - motion),
            "velocity": smooth_l1(jnp.diff(found - motion, axis=1)),
            **codebook_losses(vectors, codebook, chosen, spans),
        }
        weights = {"recon": 1.0, **vars(self.loss_config)}
        total = sum((weights[name] * term for name, term in terms.items()), start=jnp.zeros(()))
        return total, jax.lax.stop_gradient({**terms, **usage(chosen, self.config.codes)})
