"""PyTorch classes with random weights as oracles, and the comparison that every parity test makes.

Importing this file skips the calling module where torch, diffusers or transformers is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from portrait_jax.interchange.layouts import Part
from portrait_jax.interchange.rules import Link
from tests.weights import imported, tree_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

FORWARD, GRADIENT, HALF = 1e-5, 1e-4, 2e-2
"""Largest relative errors: float32 forward, gradients, bfloat16 forward."""

torch.set_num_threads(2)


def randomised(module, seed: int = 0):
    """The oracle in eval mode, every vector (bias, norm) disturbed and every zero matrix filled: no branch is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim < 2 or not value.any():
                scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
                value += scale * torch.randn(value.shape, generator=generator)
    return module.eval()


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def channels_first(x: jax.Array) -> jax.Array:
    """b … c → b c …."""
    return jnp.moveaxis(x, -1, 1)


def channels_last(x: jax.Array) -> jax.Array:
    """b c … → b … c."""
    return jnp.moveaxis(x, 1, -1)


def joined(features) -> object:
    """Several tensors, torch's or JAX's, as one vector per item."""
    vectors = [x.reshape(x.shape[0], -1) for x in features]
    return torch.cat(vectors, 1) if isinstance(vectors[0], torch.Tensor) else jnp.concatenate(vectors, 1)


@dataclass(frozen=True)
class Published:
    """An oracle's weights as ours, through the key maps of the layouts that publish them."""

    variables: dict
    parts: tuple[Part, ...]
    prefix: str

    def canonical(self, name: str) -> str:
        """The published name of a tensor of the oracle."""
        return self.parts[0].table.canonical(self.prefix + name)

    def leaf(self, name: str) -> Link:
        """Where a tensor of the oracle goes."""
        links = [
            link
            for part in self.parts
            for link in part.links(self.variables["params"])
            if part.table.canonical(self.prefix + name) in link.names
        ]
        assert len(links) == 1, f"{name} goes to {len(links)} leaves"
        return links[0]


def publish(
    weights: Mapping, parts: Part | Sequence[Part], module: nn.Module, *args, prefix: str = "", **kwargs
) -> Published:
    """Imports a torch state dict (or arrays) as a published file; nothing may be missing, extra or misshapen.

    Args:
        parts: the layout's part, or those that share the module.
        args: what the module is initialised with.
        prefix: what files have before the oracle's names.
    """
    parts = (parts,) if isinstance(parts, Part) else tuple(parts)
    arrays = {
        name: value.detach().numpy() if isinstance(value, torch.Tensor) else value for name, value in weights.items()
    }
    made = imported(tree_of(module, *args, **kwargs), arrays, *parts, prefix=prefix)
    return Published(made, parts, prefix)


def relative(actual, expected) -> float:
    """‖a − b‖ / ‖b‖."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape} differ"
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def assert_parity(
    oracle,
    call: Callable,
    apply: Callable,
    x: np.ndarray,
    published: Published,
    names: Sequence[str],
    rename: Callable[[str], str | None] = str,
    narrow: bool = True,
) -> None:
    """Forward, gradients with respect to the input and the parameters `names`, and bfloat16.

    Args:
        call: input tensor → one tensor, through the oracle.
        apply: (variables, input, dtype) → the same in JAX, in the oracle's layout.
        x: the input with respect to which gradients are taken (unless it is an integer), in the oracle's layout.
        names: two parameters of the oracle, by its own names.
        rename: the oracle's names → those of the weights that were published, where they differ.
        narrow: whether bfloat16 is compared too; not where the oracle itself is farther off in it, then at another size.
    """
    expected, slopes = torch_side(oracle, call, x, names)
    params, weights = published.variables, draw(*expected.shape, seed=7)
    links = {name: published.leaf(rename(name)) for name in slopes if name != "input"}
    # Only these leaves are differentiated: a network's other gradients would be most of what has to be compiled.
    rest = traverse_util.flatten_dict(params["params"], sep="/")
    chosen = {name: rest.pop(link.path) for name, link in links.items()}

    def loss(chosen, x, rest):
        leaves = rest | {link.path: chosen[name] for name, link in links.items()}
        out = apply({"params": traverse_util.unflatten_dict(leaves, sep="/")}, x, jnp.float32)
        return (out * weights).sum(), out

    which = (0, 1) if "input" in slopes else (0,)
    gradient = jax.jit(jax.value_and_grad(loss, which, has_aux=True))
    (_, out), (ours, *of_input) = gradient(chosen, jnp.asarray(x), rest)
    errors = {"output": (relative(out, expected), FORWARD)}
    for name, slope in slopes.items():
        mine, theirs = (of_input[0], slope) if name == "input" else (ours[name], slope)
        if name != "input":
            link, row = links[name], links[name].row(published.canonical(rename(name)))
            if row is not None:  # of scanned layers the one that the oracle's parameter belongs to
                link, mine = link.layer(row), mine[row]
            theirs = link.to_flax(slope).reshape(link.shape)
        errors[name] = (relative(mine, theirs), GRADIENT)
    if narrow:
        rounded = jax.jit(lambda params, x: apply(params, x, jnp.bfloat16))(params, jnp.asarray(x))
        errors["bfloat16"] = (relative(rounded.astype(jnp.float32), expected), HALF)
    print({name: f"{error:.1e}" for name, (error, _) in errors.items()})
    wrong = {name: f"{error:.1e} > {bound:.0e}" for name, (error, bound) in errors.items() if not error <= bound}
    assert not wrong, wrong


def torch_side(oracle, call: Callable, x: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The oracle's output, and the gradients of a weighted sum of it with respect to `names` and "input"."""
    smooth = np.issubdtype(x.dtype, np.floating)
    given = torch.tensor(x, requires_grad=smooth)
    expected = call(given)
    owned = dict(oracle.named_parameters())
    wanted = {name: owned[name] for name in names} | ({"input": given} if smooth else {})
    total = (expected * torch.tensor(draw(*expected.shape, seed=7))).sum()
    slopes = torch.autograd.grad(total, list(wanted.values()))
    return expected.detach().numpy(), {name: slope.numpy() for name, slope in zip(wanted, slopes)}
