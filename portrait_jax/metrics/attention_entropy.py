"""How decided attention is: the entropy of what a denoiser's queries look at, for each condition that it is told.

A condition that controls strongly is looked at in few, certain places: its attention's entropy is low. One that is weak leaves
attention spread out (AnyExpress, figure 3). Entropies are divided by the logarithm of the number of tokens,
so that conditions of different lengths compare: 0 looks at one token alone, 1 at all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError
from portrait_jax.nn.attention import split_heads
from portrait_jax.typing import Array, Float, Params


@dataclass(frozen=True)
class Look:
    """One kind of attention: where its queries and its keys are made, below a transformer block."""

    queries: tuple[str, ...]
    keys: tuple[str, ...]


LOOKS: Mapping[str, Look] = {
    "text": Look(("attn2", "to_q"), ("attn2", "to_k")),
    "identity": Look(("attn2", "to_q"), ("attn2", "processor", "to_k_ip_0")),
    "sound": Look(("audio_attention", "attn", "to_q"), ("audio_attention", "attn", "to_k")),
}
BLOCK = "transformer_blocks_0"


def entropy(q: Float[Array, "bf n c"], k: Float[Array, "b m c"], heads: int) -> Float[Array, ""]:
    """Mean over items, heads and queries of −Σ p ln p / ln m, p being the attention to `m` tokens.

    Consecutive items of `q` share the tokens of one item of `k`, as frames do with their clip's.
    """
    keys = jnp.repeat(k, q.shape[0] // k.shape[0], axis=0)
    a, b = (split_heads(x.astype(jnp.float32), heads) for x in (q, keys))
    weights = jax.nn.log_softmax(jnp.einsum("bnhd,bkhd->bhnk", a, b) * a.shape[-1] ** -0.5)
    return -(jnp.exp(weights) * weights).sum(-1).mean() / jnp.log(k.shape[1])


def attention_entropies(
    denoiser: nn.Module,
    params: Params,
    heads: Mapping[str, int],
    noisy: Float[Array, "b f h w c"],
    timestep: Float[Array, " b"],
    conditioning: Conditioning,
) -> dict[str, dict[str, Float[Array, ""]]]:
    """Condition → block → entropy, for one call of a denoiser; conditions that are not told, or have one token, are missing.

    Args:
        denoiser: a `UNet`, whose blocks are named as they are in `LOOKS`.
        params: the denoiser's own.
        heads: of each condition's attention.

    Raises:
        ConfigError: if nothing can be looked at.
    """
    ends = {end for look in LOOKS.values() for end in (look.queries[-1], look.keys[-1])}

    def kept(module: nn.Module, method: str) -> bool:
        return module.name in ends and method == "__call__"

    options: dict[str, Any] = {"capture_intermediates": kept, "mutable": ["intermediates"]}
    _, seen = denoiser.apply({"params": params}, noisy, timestep, conditioning, **options)
    made = {
        path[: path.index("__call__")]: value[0]
        for path, value in traverse_util.flatten_dict(seen["intermediates"]).items()
        if BLOCK in path
    }
    found: dict[str, dict[str, Array]] = {}
    for path, keys in made.items():
        at = path.index(BLOCK) + 1
        for name, look in LOOKS.items():
            if path[at:] == look.keys and keys.shape[1] > 1:
                queries = made[(*path[:at], *look.queries)]
                found.setdefault(name, {})["/".join(path[: at - 1])] = entropy(queries, keys, heads[name])
    if not found:
        raise ConfigError("this denoiser attends to no condition of more than one token; tell it a sound or a portrait")
    return found
