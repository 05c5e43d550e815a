"""Multi-head attention: one entry point that picks the implementation, and the layer with its four projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn import attention_kernels as kernels
from portrait_jax.nn.attention_kernels import Bias, Keys, Mask, Queries
from portrait_jax.sharding.attention import by_heads, by_tokens, devices_of_tokens
from portrait_jax.target import platform
from portrait_jax.typing import Array, Bool, Float

LONG = 1 << 21
"""Scores per head (queries × keys) from which an accelerator computes them in chunks of queries, and a mesh splits tokens."""
KERNEL_KEYS = 1024
"""Keys from which the TPU kernel beats XLA, about."""
KERNEL_SIZE = 256
"""Head size up to which its blocks fit the chip's fast memory, backward too."""

IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "xla": kernels.xla,
    "chunked": kernels.chunked,
    "pieces": kernels.pieces,
    "cudnn": kernels.cudnn,
    "splash": kernels.splash,
}
OPAQUE = ("splash",)
"""What the partitioner cannot look into."""


def attention(
    q: Queries, k: Keys, v: Keys, *, mask: Mask | None = None, bias: Bias | None = None, implementation: str = "auto"
) -> Float[Array, "b n heads d"]:
    """Softmax attention, scaled by (head size)^−1/2, softmax in float32.

    `mask` is true where a query may attend; heads share it. `bias` is added to the scaled scores, which then are computed as a
    whole: it is as large as they are. `implementation` is what computes on each device: "xla" (whole score matrix), "chunked"
    (chunks of queries, recomputed in the backward pass), "pieces" (pieces that fit a processor's cache, likewise), "cudnn"
    (bf16/fp16 on an NVIDIA GPU), "splash" (TPU; masks of keys only), or "auto", which decides by device, type and size.

    In a mesh with a `sequence` axis, long attention without bias is shared out over it: `sharding.attention.by_tokens`.

    Raises ConfigError for another name, ShapeError for a mask that the named implementation cannot have.
    """
    if bias is not None:
        return kernels.xla(q, k, v, mask, bias)
    if implementation not in ("auto", *IMPLEMENTATIONS):
        known = ("auto", *IMPLEMENTATIONS)
        raise ConfigError(f"attention implementation '{implementation}' does not exist; known are: {', '.join(known)}")

    def name(q: Queries, k: Keys, mask: Mask | None) -> str:
        return choose(q, k, mask) if implementation == "auto" else implementation

    def on_one_device(q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
        return IMPLEMENTATIONS[name(q, k, mask)](q, k, v, mask)

    if devices_of_tokens() > 1 and q.shape[1] * k.shape[1] >= LONG:
        return by_tokens(on_one_device, q, k, v, mask)
    if name(q, k, mask) in OPAQUE:
        return by_heads(on_one_device, q, k, v, mask)
    return on_one_device(q, k, v, mask)


def choose(q: Queries, k: Keys, mask: Mask | None = None) -> str:
    """The name of the implementation for these shapes and types on this kind of device."""
    target, (items, queries, heads, size), keys = platform(), q.shape, k.shape[1]
    if target == "cpu":
        return "pieces" if items * heads * queries * keys > kernels.CACHE else "xla"
    if target == "gpu" and q.dtype.itemsize == 2 and size % 8 == 0 and size <= 128:
        return "cudnn"
    of_keys = mask is None or mask.shape[1] == 1
    if target == "tpu" and keys >= KERNEL_KEYS and queries >= kernels.LANES and size <= KERNEL_SIZE and of_keys:
        return "splash"
    return "chunked" if queries * keys >= LONG and queries > kernels.CHUNK else "xla"


def split_heads(x: Float[Array, "*batch c"], heads: int) -> Float[Array, "*batch heads d"]:
    """Cuts the last axis into `heads` equal parts; raises ShapeError if it does not divide."""
    if x.shape[-1] % heads:
        raise ShapeError(f"{heads} heads do not divide a width of {x.shape[-1]}; choose another number of heads")
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class Attention(nn.Module):
    """Projections around `attention`, named as in diffusers: to_q, to_k, to_v, to_out_0 (biases optional).

    With `zero_out` the last one is zero at the start: a residual around the layer is the identity then.

    Context and extra tokens may have a smaller batch than `x`: consecutive items of `x` (the frames of one clip, batch-major)
    then share them, and their keys and values are computed once.
    """

    heads: int
    qkv_bias: bool = False
    out_bias: bool = True
    zero_out: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "bf n c"],
        context: Float[Array, "b k d"] | None = None,
        *,
        extra: Float[Array, "b m c"] | None = None,
        extra_mask: Array | None = None,
        join: Callable[[Array, Array], Array] | None = None,
    ) -> Float[Array, "bf n c"]:
        """`context` replaces the tokens attended to (cross-attention); `extra` joins them (reference attention).

        `extra_mask` (b,) is 1 where the extra tokens are attended to and 0 where the result is as without them.
        `join` gets the gathered values and the queries, both "bf n c", and returns the values to project: decoupled
        attention adds its own there.
        """
        items, length, width = x.shape
        names = ("to_q", "to_k", "to_v")
        to_q, to_k, to_v = (nn.Dense(width, use_bias=self.qkv_bias, dtype=self.dtype, name=name) for name in names)
        source = x if context is None else context
        q, k, v = (split_heads(layer(y), self.heads) for layer, y in ((to_q, x), (to_k, source), (to_v, source)))
        mask = None
        if extra is not None:
            share = items // extra.shape[0]
            k, v = (
                jnp.concatenate([own, jnp.repeat(split_heads(layer(extra), self.heads), share, axis=0)], axis=1)
                for own, layer in ((k, to_k), (v, to_v))
            )
            mask = None if extra_mask is None else joined_mask(extra_mask, share, length, extra.shape[1])
        # Items that share their keys are attended to as one item with more queries: no copy of the keys.
        out = attention(q.reshape(k.shape[0], -1, *q.shape[2:]), k, v, mask=mask).reshape(x.shape)
        if join is not None:
            out = join(out, q.reshape(x.shape))
        start = nn.initializers.zeros if self.zero_out else nn.linear.default_kernel_init
        return nn.Dense(width, use_bias=self.out_bias, kernel_init=start, dtype=self.dtype, name="to_out_0")(out)


def joined_mask(extra_mask: Array, share: int, own: int, extra: int) -> Bool[Array, "bf 1 k"]:
    """Keys visible when `extra` tokens follow `own` ones: always the own, the extra where `extra_mask` (b,) is set."""
    visible = jnp.repeat(extra_mask.astype(bool), share)[:, None]
    columns = jnp.arange(own + extra)[None] < own
    return (columns | visible)[:, None]
