"""Anchor alignment inside a UNet: features after each layer are measured, and brought to those of a video's first window.

AnyExpress's text speaks of the statistics of the UNet's blocks, its algorithm of those of latents (`long_video.prefix`). No
parameters: with frozen networks it is a matter of sampling alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.conditioning import Anchor
from portrait_jax.nn.moments import align, moments
from portrait_jax.nn.slots import Site, Slot
from portrait_jax.typing import Array, Float

COLLECTION = "anchors"
"""Of flax variables: what was measured."""
NAME = "anchor"


def site_name(site: Site) -> str:
    """Key of a site's statistics, such as `down_blocks_0/anchor_1`."""
    return f"{site.block}/{NAME}_{site.index}"


class AnchorAlignment(nn.Module):
    """Sows the statistics of its input, then brings it to those told for its site."""

    site: str

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], anchor: Anchor) -> Float[Array, "b f h w c"]:
        wide = x.astype(jnp.float32)
        self.sow(COLLECTION, "own", jnp.stack(moments(wide, anchor.free), axis=1))
        mean, deviation = jnp.moveaxis(anchor.statistics[self.site], 1, 0)
        return align(wide, anchor.free, mean, deviation, anchor.strength).astype(x.dtype)


def anchor_slot() -> Slot:
    """After each layer of each block, behind the temporal modules; reads `Conditioning.anchor`."""

    def make(site, *, dtype, name):
        return AnchorAlignment(site_name(site), name=name)

    return Slot("after_layer", NAME, make, field="anchor", late=True)


def measured(collection: Mapping[str, Any]) -> dict[str, Float[Array, "b 2 c"]]:
    """What was sown, by `site_name`."""
    return {f"{block}/{name}": own["own"][0] for block, names in collection.items() for name, own in names.items()}
