"""Vectors to the nearest of a table of codes and back, and the losses that teach table and encoder; pure functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from portrait_jax.typing import Array, Float, Int

Vectors = Float[Array, "b n d"]
Table = Float[Array, "k d"]


def distances(vectors: Vectors, codebook: Table) -> Float[Array, "b n k"]:
    """Squared distance of every vector to every code, float32."""
    vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
    cross = jnp.einsum("bnd,kd->bnk", vectors, codebook, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(vectors).sum(-1, keepdims=True) - 2 * cross + jnp.square(codebook).sum(-1)


def nearest(vectors: Vectors, codebook: Table) -> Int[Array, "b n"]:
    """Number of the nearest code."""
    return distances(vectors, codebook).argmin(-1)


def straight_through(vectors: Vectors, codes: Vectors) -> Vectors:
    """The codes, with the gradient of the vectors (van den Oord et al. 2017, arXiv 1711.00937)."""
    return vectors + jax.lax.stop_gradient(codes - vectors)


def codebook_losses(
    vectors: Vectors, codebook: Table, chosen: Int[Array, "b n"], spans: Float[Array, "b n k"]
) -> dict[str, Float[Array, ""]]:
    """What moves codes to vectors, vectors to codes, and codes that nobody chose to where vectors are.

    Args:
        chosen: `nearest`. spans: `distances`.

    Returns:
        `codebook`: mean squared distance, a gradient for the table alone. `commitment`: the same for the vectors alone
        (both of arXiv 1711.00937). `revival`: the mean squared distance of each unchosen code to its nearest vector, for
        the table alone: the nearest-anchor rule of online clustered codebooks (Zheng and Vedaldi 2023, arXiv 2307.15139)
        as a loss, so that dead codes come back without counters beside the parameters.
    """
    fixed = jax.lax.stop_gradient
    codes = codebook[chosen]
    used = jnp.zeros(len(codebook)).at[chosen.reshape(-1)].set(1.0)
    flat = fixed(vectors).reshape(-1, vectors.shape[-1])
    anchors = flat[fixed(spans).reshape(-1, len(codebook)).argmin(0)]
    lost = jnp.square(codebook - anchors).mean(-1) * (1 - used)
    return {
        "codebook": jnp.square(fixed(vectors) - codes).mean(),
        "commitment": jnp.square(vectors - fixed(codes)).mean(),
        "revival": lost.mean(),
    }


def usage(chosen: Int[Array, "b n"], count: int) -> dict[str, Float[Array, ""]]:
    """How many codes a batch chooses (`codes_used`), and how many equally frequent ones would say as much (`perplexity`)."""
    share = jnp.zeros(count).at[chosen.reshape(-1)].add(1.0) / chosen.size
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-10))).sum()
    return {"codes_used": (share > 0).sum().astype(jnp.float32), "perplexity": jnp.exp(entropy)}
