"""Decoupled motion attention: in every cross-attention a second pair of keys and values, of what the face does.

Source: HunyuanPortrait (arXiv 2503.18860, section 3.2; Tencent-Hunyuan/HunyuanPortrait,
src/models/condition/attention_processor.py), after IP-Adapter (arXiv 2308.06721).
"""

from __future__ import annotations

from types import MappingProxyType

import jax.numpy as jnp
from flax import traverse_util

from portrait_jax.adapters.image_prompt import ImagePromptAttention
from portrait_jax.nn.slots import Slot, heads_at
from portrait_jax.typing import PyTree

NAME = "processor"


def decoupled_motion_slots(
    heads: int | tuple[int, ...], scale: float = 1.0, over_time: str = "mean", field: str = "motion"
) -> tuple[Slot, Slot]:
    """Puts it into the cross-attentions of a spatio-temporal backbone with `heads` heads (one number, or one per level).

    Layers over places read each frame's tokens, layers over time those of the window, joined by the rule `over_time`.
    `scale`: how strongly the motion speaks beside the portrait's tokens.
    """

    def spatial(site, *, dtype, name):
        return ImagePromptAttention(heads_at(heads, site), scale, dtype, name=name)

    def temporal(site, *, dtype, name):
        return ImagePromptAttention(heads_at(heads, site), scale, dtype, over_time, name=name)

    return Slot("in_attn2", NAME, spatial, field=field), Slot("in_temporal_attn2", NAME, temporal, field=field)


def copied_from_base(params: PyTree) -> PyTree:
    """A backbone's parameters with a second pair of keys and values in every cross-attention, copies of the first: where
    training starts. `params` may have such pairs or not."""
    flat = traverse_util.flatten_dict(params)
    for path in list(flat):
        if len(path) > 2 and path[-3] == "attn2" and path[-2] in ("to_k", "to_v"):
            flat[(*path[:-2], NAME, f"{path[-2]}_ip_0", path[-1])] = flat[path]
    return traverse_util.unflatten_dict(flat)


def silenced(params: PyTree) -> PyTree:
    """`params` with values of the motion that are zero: a backbone that has learnt nothing of motion tokens is not disturbed by
    them, where copies would say what is meant for another kind of token. Keys stay as they are: they say nothing by themselves."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: jnp.zeros_like(leaf) if "to_v_ip_0" in path else leaf for path, leaf in flat.items()}
    )


STARTS = MappingProxyType({"copied": copied_from_base, "silent": silenced})
"""What a fresh backbone's motion attention begins with."""
