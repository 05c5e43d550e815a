"""3×3 convolution, and 3×3×3 of videos: entry points that pick the implementation, as `attention` does.

XLA's convolution is the best there is on an accelerator. On a processor two others take half to two thirds of its time: Winograd's
minimal filtering on large pictures, and one matrix product of gathered neighbourhoods on small ones. And there the kernel's
gradient takes XLA many times the convolution itself, so that it is computed from neighbourhoods too, a few items at a time. For
convolutions over three axes a processor has nothing but loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from portrait_jax.errors import ConfigError
from portrait_jax.target import platform
from portrait_jax.typing import Array, Float

SAME = ((1, 1), (1, 1))
"""Padding that keeps the size (stride 1) or halves it rounding up (stride 2)."""
WIDE = 128
"""Input and output channels from which a processor gains by not using XLA's convolution."""
LARGE = 1024
"""Positions (items × height × width) from which transforming the kernel pays off."""
STRIP = 4096
"""Positions that are transformed at a time, so that what lies between the transforms stays in a processor's cache."""
SEVERAL, MANY = 16, 16384
"""Input and output channels, and positions, from which the kernel's gradient gains by not being XLA's on a processor. Below,
little is gained, and a program with many such gradients takes long to compile."""
GATHERED = 1024
"""Positions whose neighbourhoods the kernel's gradient gathers at a time, for the cache's sake again."""

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 c out"]
Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = SAME, implementation: str = "auto"
) -> Float[Array, "b _ _ out"]:
    """Convolution without bias, `padding` in pixels (top, bottom), (left, right).

    `implementation` is "xla"; "winograd" (F(2×2, 3×3) of Lavin and Gray, arXiv 1509.09308: 4/9 of the multiplications, as
    exact as the others in float32) or "gathered" (one matrix product), both only for stride 1 and `SAME`; or "auto", which
    decides by device, type and size, also how the kernel's gradient is computed; that of "xla" is XLA's. Raises ConfigError
    for another name, and for a stride or padding that the named one does not have.
    """
    name = _choose(x, kernel, stride, padding) if implementation == "auto" else implementation
    if name == "xla":
        ours = implementation == "auto" and _on_processor(x) and _heavy(x, kernel, stride)
        return (_of_xla(stride, padding) if ours else partial(_xla, stride=stride, padding=padding))(x, kernel)
    if name not in IMPLEMENTATIONS:
        known = ", ".join(("auto", "xla", *IMPLEMENTATIONS))
        raise ConfigError(f"convolution implementation '{name}' does not exist; known are: {known}")
    if (stride, padding) != (1, SAME):
        raise ConfigError(
            f"convolution '{name}' has stride 1 and padding {SAME}, not {stride} and {padding}; use 'xla'"
        )
    return IMPLEMENTATIONS[name](x, kernel)


def convolve_video(x: Float[Array, "b m h w c"], kernel: Float[Array, "3 3 3 c out"]) -> Float[Array, "b _ h w out"]:
    """Convolution without bias, zeros around every picture, and none before and behind the frames, of which two are lost.

    On a processor it is `convolve` of three neighbouring frames, whose channels lie side by side.
    """
    if not _on_processor(x):
        dimensions = ("NTHWC", "THWIO", "NTHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), ((0, 0), *SAME), dimension_numbers=dimensions)
    frames = x.shape[1] - 2
    near = jnp.concatenate([x[:, time : time + frames] for time in range(3)], axis=-1)
    flat = jnp.moveaxis(kernel, 0, 2).reshape(3, 3, -1, kernel.shape[-1])
    out = convolve(near.reshape(-1, *near.shape[2:]), flat)
    return out.reshape(len(x), frames, *out.shape[1:])


def _choose(x: Images, kernel: Kernel, stride: int, padding: Padding) -> str:
    plain = stride == 1 and padding == SAME and min(kernel.shape[2:]) >= WIDE
    if not _on_processor(x) or not plain:
        return "xla"
    return "winograd" if np.prod(x.shape[:3]) >= LARGE else "gathered"


def _on_processor(x: Array) -> bool:
    return platform() == "cpu" and x.dtype == jnp.float32


def _heavy(x: Images, kernel: Kernel, stride: int) -> bool:
    return min(kernel.shape[2:]) >= SEVERAL and math.prod(x.shape[:3]) >= MANY * stride**2


def _xla(x: Images, kernel: Kernel, stride: int = 1, padding: Padding = SAME) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _differentiable(
    fast: Callable[[Array, Array], Array], stride: int = 1, padding: Padding = SAME
) -> Callable[[Array, Array], Array]:
    """`fast` with XLA's gradients, where the kernel's is not so heavy that it should be that of `_by_parts`."""

    def run(x: Array, kernel: Array) -> Array:
        return fast(x, kernel)

    # Who counts operations knows short cuts by their names.
    run.__name__ = getattr(fast, "__name__", "xla")
    convolve = jax.custom_jvp(jax.jit(run))

    @partial(convolve.defjvp, symbolic_zeros=True)
    def jvp(primals, tangents):
        (x, kernel), (dx, dkernel), parts = primals, tangents, []
        if not isinstance(dx, SymbolicZero):
            parts.append(_xla(dx, kernel, stride, padding))
        if not isinstance(dkernel, SymbolicZero):
            linear = _by_parts if _heavy(x, kernel, stride) else _xla
            parts.append(linear(x, dkernel, stride, padding))
        return convolve(x, kernel), sum(parts[1:], parts[0])

    return convolve


@lru_cache
def _of_xla(stride: int, padding: Padding) -> Callable[[Array, Array], Array]:
    return _differentiable(partial(_xla, stride=stride, padding=padding), stride, padding)


def _by_parts(x: Images, kernel: Kernel, stride: int, padding: Padding) -> Float[Array, "b _ _ out"]:
    """`gathered`, some items at a time. Neighbourhoods, nine times the input, are not kept for the gradient but gathered anew."""
    items = len(x)
    at_once = max(1, min(items, GATHERED * stride**2 // (x.shape[1] * x.shape[2])))
    while items % at_once:
        at_once -= 1
    part = jax.checkpoint(partial(gathered, stride=stride, padding=padding))
    out = jax.lax.map(lambda some: part(some, kernel), x.reshape(items // at_once, at_once, *x.shape[1:]))
    return out.reshape(items, *out.shape[2:])


def gathered(x: Images, kernel: Kernel, stride: int = 1, padding: Padding = SAME) -> Float[Array, "b _ _ out"]:
    """Every position's nine neighbours side by side, times the kernel as one matrix."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (side - 2 for side in padded.shape[1:3])
    near = [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(3) for j in range(3)]
    joined = jnp.concatenate(near, axis=-1)
    out = joined.reshape(-1, joined.shape[-1]) @ kernel.reshape(joined.shape[-1], -1)
    return out.reshape(*joined.shape[:3], -1)


def winograd(x: Images, kernel: Kernel) -> Float[Array, "b h w out"]:
    """Squares of 2×2 results from squares of 4×4 values: 16 products instead of 36, in strips of rows."""
    items, height, width, _ = x.shape
    rows, columns = height + height % 2, width + width % 2
    padded = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    weights = _twice(_of_kernel, [[kernel[i, j] for j in range(3)] for i in range(3)])
    fitting = (strip for strip in range(rows, 2, -2) if rows % strip == 0 and items * strip * columns <= STRIP)
    strip = next(fitting, 2)

    def one(start: Array) -> Array:
        return _squares(jax.lax.dynamic_slice_in_dim(padded, start, strip + 2, axis=1), weights)

    if strip == rows:
        out = _squares(padded, weights)
    else:
        out = jnp.moveaxis(jax.lax.map(one, jnp.arange(0, rows, strip)), 0, 1)
    return out.reshape(items, rows, columns, -1)[:, :height, :width]


Grid = Sequence[Sequence[Array]]


def _squares(padded: Images, weights: Grid) -> Array:
    """One strip, its size even, with one row and column more on every side."""
    items, height, width, channels = padded.shape
    # Element i, j of every square of 4×4 at once: squares overlap by half.
    values: Grid = [[padded[:, i : i + height - 2 : 2, j : j + width - 2 : 2] for j in range(4)] for i in range(4)]
    values = _twice(_of_values, [[value.reshape(-1, channels) for value in row] for row in values])
    products = [[value @ weight for value, weight in zip(*rows)] for rows in zip(values, weights)]
    out = jnp.stack([jnp.stack(row, axis=1) for row in _twice(_of_products, products)], axis=1)
    out = out.reshape(items, height // 2 - 1, width // 2 - 1, 2, 2, -1)
    return jnp.swapaxes(out, 2, 3).reshape(items, height - 2, width - 2, -1)


def _twice(transform: Callable[[Sequence[Array]], list[Array]], grid: Grid) -> Grid:
    """The transform along rows, then along columns. Sums of whole arrays: as einsums they take most of the time."""
    columns = [transform(column) for column in zip(*[transform(row) for row in grid])]
    return list(zip(*columns))


def _of_values(d: Sequence[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_kernel(g: Sequence[Array]) -> list[Array]:
    return [g[0], 0.5 * (g[0] + g[1] + g[2]), 0.5 * (g[0] - g[1] + g[2]), g[2]]


def _of_products(m: Sequence[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


IMPLEMENTATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "winograd": _differentiable(winograd),
    "gathered": _differentiable(gathered),
}
