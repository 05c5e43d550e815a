"""PyTorch classes with random weights as oracles, and the comparison that every parity test makes.

Importing this file skips the calling module where torch, diffusers or transformers is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.golden import flax_array, flax_name, flax_params

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


def variables(weights, rename: Callable[[str], str | None] = str) -> dict:
    """Flax variables of a torch state dict; `rename` gives our torch-like name of each tensor, None to leave it out."""
    named = {rename(name): value.detach().numpy() for name, value in weights.items()}
    return flax_params({name: value for name, value in named.items() if name is not None})


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
    params: Mapping,
    names: Sequence[str],
    rename: Callable[[str], str | None] = str,
) -> None:
    """Forward, gradients with respect to the input and the parameters `names`, and bfloat16.

    Args:
        call: input tensor → one tensor, through the oracle.
        apply: (variables, input, dtype) → the same in JAX, in the oracle's layout.
        x: the input with respect to which gradients are taken (unless it is an integer), in the oracle's layout.
        names: torch names of parameters, of the oracle.
        rename: the oracle's names → names of which ours follow mechanically.
    """
    smooth = np.issubdtype(x.dtype, np.floating)
    given = torch.tensor(x, requires_grad=smooth)
    expected = call(given)
    weights = draw(*expected.shape, seed=7)
    owned = dict(oracle.named_parameters())
    wanted = {name: owned[name] for name in names} | ({"input": given} if smooth else {})
    slopes = torch.autograd.grad((expected * torch.tensor(weights)).sum(), list(wanted.values()))
    slopes = {name: slope.numpy() for name, slope in zip(wanted, slopes)}
    expected = expected.detach().numpy()

    def loss(params, x):
        out = apply(params, x, jnp.float32)
        return (out * weights).sum(), out

    derive = jax.jit(jax.value_and_grad(loss, (0, 1) if smooth else (0,), has_aux=True))
    (_, out), gradients = derive(params, jnp.asarray(x))
    flat = traverse_util.flatten_dict(gradients[0]["params"], sep="/")
    errors = {"output": (relative(out, expected), FORWARD)}
    for name, slope in slopes.items():
        if name == "input":
            found = gradients[1]
        else:
            path = flax_name(rename(name), slope.ndim)
            found, slope = flat[path], flax_array(path, slope)
        errors[name] = (relative(found, slope), GRADIENT)
    half = jax.jit(lambda params, x: apply(params, x, jnp.bfloat16))(params, jnp.asarray(x))
    errors["bfloat16"] = (relative(half.astype(jnp.float32), expected), HALF)
    print({name: f"{error:.1e}" for name, (error, _) in errors.items()})
    wrong = {name: f"{error:.1e} > {bound:.0e}" for name, (error, bound) in errors.items() if not error <= bound}
    assert not wrong, wrong


def assert_tree_is_complete(module, params: Mapping, *args, **kwargs) -> None:
    """The imported tree is exactly what the module initialises: nothing missing, nothing extra, shapes equal."""
    made = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))
    shapes = [
        {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree["params"], sep="/").items()}
        for tree in (made, params)
    ]
    assert shapes[0] == shapes[1]
