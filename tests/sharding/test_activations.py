"""Protects where videos lie while they are convolved: a strip of every picture on each device that has no clip of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.sharding.activations import strips_apart
from portrait_jax.sharding.mesh import make_mesh


@pytest.mark.parametrize(
    ("shape", "mesh", "part"),
    [
        ((1, 2, 8, 6, 1), {"data": 4}, (1, 2, 2, 6, 1)),
        ((1, 2, 6, 8, 1), {"data": 4}, (1, 2, 6, 2, 1)),
        ((1, 2, 8, 6, 1), {"data": 2, "fsdp": 2, "tensor": 2}, (1, 2, 1, 6, 1)),
        ((4, 2, 8, 6, 1), {"data": 2, "fsdp": 2, "tensor": 2}, (1, 2, 4, 6, 1)),
        ((1, 2, 4, 6, 1), {"data": 4, "sequence": 2}, (1, 2, 1, 6, 1)),
        ((1, 2, 5, 6, 1), {"data": 2, "tensor": 4}, (1, 2, 5, 3, 1)),
        ((2, 2, 5, 6, 1), {"data": 2, "tensor": 4}, (1, 2, 5, 6, 1)),
        ((1, 2, 60, 90, 1), {"data": 4, "fsdp": 2}, (1, 2, 15, 90, 1)),
        ((1, 2, 5, 7, 1), {"data": 2}, (1, 2, 5, 7, 1)),
    ],
    ids=str,
)
def test_each_device_has_a_strip_or_a_clip_of_its_own(shape, mesh, part):
    made = make_mesh(**mesh)
    with jax.set_mesh(made):
        out = jax.jit(strips_apart)(jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape))
    assert {each.data.shape for each in out.addressable_shards} == {part}
    np.testing.assert_array_equal(out.reshape(-1), np.arange(np.prod(shape)))


def test_without_a_mesh_nothing_is_said():
    x = jnp.zeros((1, 1, 4, 4, 1))
    assert strips_apart(x) is x
