"""3×3 convolution: one entry point that picks the implementation, as `attention` does.

XLA's convolution is the best there is on an accelerator. On a processor two others take half to two thirds of its time: Winograd's
minimal filtering on large pictures, and one matrix product of gathered neighbourhoods on small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float

SAME = ((1, 1), (1, 1))
"""Padding that keeps the size (stride 1) or halves it rounding up (stride 2)."""
WIDE = 128
"""Input and output channels from which a processor gains by not using XLA's convolution."""
LARGE = 1024
"""Positions (items × height × width) from which transforming the kernel pays off."""
STRIP = 4096
"""Positions that are transformed at a time, so that what lies between the transforms stays in a processor's cache."""

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 c out"]
Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Images, kernel: Kernel, *, stride: int = 1, padding: Padding = SAME, implementation: str = "auto"
) -> Float[Array, "b _ _ out"]:
    """Convolution without bias, `padding` in pixels (top, bottom), (left, right).

    `implementation` is "xla"; "winograd" (F(2×2, 3×3) of Lavin and Gray, arXiv 1509.09308: 4/9 of the multiplications, as
    exact as the others in float32) or "gathered" (one matrix product), both only for stride 1 and `SAME`; or "auto", which
    decides by device, type and size. Derivatives are always XLA's. Raises ConfigError for another name, and for a stride or
    padding that the named one does not have.
    """
    name = _choose(x, kernel, stride, padding) if implementation == "auto" else implementation
    if name == "xla":
        return _xla(x, kernel, stride, padding)
    if name not in IMPLEMENTATIONS:
        known = ", ".join(("auto", "xla", *IMPLEMENTATIONS))
        raise ConfigError(f"convolution implementation '{name}' does not exist; known are: {known}")
    if (stride, padding) != (1, SAME):
        raise ConfigError(
            f"convolution '{name}' has stride 1 and padding {SAME}, not {stride} and {padding}; use 'xla'"
        )
    return IMPLEMENTATIONS[name](x, kernel)


def _choose(x: Images, kernel: Kernel, stride: int, padding: Padding) -> str:
    plain = stride == 1 and padding == SAME and min(kernel.shape[2:]) >= WIDE
    if jax.default_backend() != "cpu" or x.dtype != jnp.float32 or not plain:
        return "xla"
    return "winograd" if np.prod(x.shape[:3]) >= LARGE else "gathered"


def _xla(x: Images, kernel: Kernel, stride: int = 1, padding: Padding = SAME) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _differentiable(fast: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Differentiates `fast` as `_xla`: in memory and in time the backward pass is the ordinary one."""
    convolve = jax.custom_jvp(jax.jit(fast))

    @partial(convolve.defjvp, symbolic_zeros=True)
    def jvp(primals, tangents):
        x, kernel = primals
        parts = [
            _xla(*pair)
            for pair, tangent in (((tangents[0], kernel), tangents[0]), ((x, tangents[1]), tangents[1]))
            if not isinstance(tangent, SymbolicZero)
        ]
        return convolve(x, kernel), sum(parts[1:], parts[0])

    return convolve


def gathered(x: Images, kernel: Kernel) -> Float[Array, "b h w out"]:
    """Every position's nine neighbours side by side, times the kernel as one matrix."""
    items, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    out = jnp.concatenate(near, axis=-1).reshape(-1, 9 * channels) @ kernel.reshape(9 * channels, -1)
    return out.reshape(items, height, width, -1)


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
