"""Floating-point operations of a traced function: matrix products and convolutions, loops counted as often as they run.

XLA's own analysis counts a loop's body once, knows nothing of cuDNN's attention, and sees fewer operations where a convolution
takes a short cut; this number is the same everywhere. Elementwise work is not counted, as is usual where utilisation is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any


def flops(jaxpr: Any) -> float:
    """Multiplications and additions of a (closed) jaxpr; a branch counts as its dearest, a `while` body once."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(equation_flops(equation) for equation in jaxpr.eqns)


def equation_flops(equation: Any) -> float:
    """Of one equation, with all that it calls."""
    name = equation.primitive.name
    # Compiled functions have a name of their own: what a short cut stands for counts, not what it takes.
    count = COUNTED.get(equation.params.get("name", name)) or COUNTED.get(name)
    if count is not None:
        return count(equation)
    inner = [flops(jaxpr) for value in equation.params.values() for jaxpr in jaxprs(value)]
    if name == "cond":
        return max(inner)
    return equation.params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def jaxprs(value: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for item in value if isinstance(value, tuple | list) else (value,):
        if hasattr(getattr(item, "jaxpr", item), "eqns"):
            yield item


def of_product(equation: Any) -> float:
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * prod(out.shape) * prod(left.shape[axis] for axis in contracted)


def of_convolution(equation: Any) -> float:
    kernel, out = equation.invars[1].aval, equation.outvars[0].aval
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * prod(out.shape) * prod(kernel.shape) / outputs


def of_short_convolution(equation: Any) -> float:
    """`nn.convolve`'s: pictures "b h w c" and a kernel, the size stays."""
    pictures, kernel = equation.invars[0].aval.shape, equation.invars[1].aval.shape
    return 2.0 * prod(pictures[:-1]) * prod(kernel)


def of_attention(equation: Any) -> float:
    """cuDNN's attention: queries "b n heads d", keys "b k heads d"."""
    queries, keys = equation.invars[0].aval.shape, equation.invars[1].aval.shape
    return 4.0 * prod(queries) * keys[1]


def of_kernel(equation: Any) -> float:
    """A Pallas kernel: its body for each block of its grid, padding included."""
    return prod(equation.params["grid_mapping"].grid) * flops(equation.params["jaxpr"])


def of_devices(equation: Any) -> float:
    """The body of a `shard_map` is one device's part: all do as much, those that do the same too."""
    return equation.params["mesh"].size * flops(equation.params["jaxpr"])


COUNTED: dict[str, Callable[[Any], float]] = {
    "dot_general": of_product,
    "conv_general_dilated": of_convolution,
    "winograd": of_short_convolution,
    "gathered": of_short_convolution,
    "dot_product_attention_fwd": of_attention,
    "dot_product_attention_fwd_wrapper": of_attention,
    "pallas_call": of_kernel,
    "shard_map": of_devices,
}
