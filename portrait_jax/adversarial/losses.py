"""Losses between real and generated pictures, and between what networks see in them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from portrait_jax.typing import Array, Float

Scores = Float[Array, " b"]
Scalar = Float[Array, ""]


def hinge_generator(fake: Scores) -> Scalar:
    """−E D(G): the generated pictures should score high (Lim and Ye 2017, arXiv 1705.02894)."""
    return -fake.mean()


def hinge_discriminator(real: Scores, fake: Scores) -> Scalar:
    """E max(0, 1 − D(real)) + E max(0, 1 + D(G)): real above 1, generated below −1, and no more than that."""
    return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()


def feature_distance(found: Sequence[Float[Array, "b _ _ _"]], wanted: Sequence[Float[Array, "b _ _ _"]]) -> Scalar:
    """The sum over layers of the mean absolute difference; `wanted` gets no gradient.

    Feature matching with a discriminator's layers (Wang et al. 2018, arXiv 1711.11585, equation 4); a perceptual loss with
    those of a recogniser (Johnson et al. 2016, arXiv 1603.08155).
    """
    pairs = zip(found, jax.lax.stop_gradient(tuple(wanted)), strict=True)
    return sum(
        (jnp.abs(ours.astype(jnp.float32) - theirs.astype(jnp.float32)).mean() for ours, theirs in pairs),
        start=jnp.zeros(()),
    )
