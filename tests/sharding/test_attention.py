"""Attention over eight fake devices equals attention on one, forward and backward, and no device holds all scores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.nn import attention as layer
from portrait_jax.nn.attention import attention
from portrait_jax.nn.attention_kernels import xla
from portrait_jax.sharding import attention as module
from portrait_jax.sharding.attention import by_heads, by_tokens, devices_of_tokens
from portrait_jax.sharding.mesh import make_mesh

MESHES = {
    "exchanged": {"data": 2, "sequence": 4},  # 4 heads, one a device
    "exchanged, heads split": {"data": 1, "tensor": 2, "sequence": 2, "fsdp": 2},
    "ring": {"data": 1, "sequence": 8},  # 4 heads do not divide
    "ring, heads split": {"data": 2, "tensor": 2, "sequence": 2},  # 1 head a device, see `arrays`
}


@pytest.fixture(autouse=True)
def everything_is_long(monkeypatch):
    monkeypatch.setattr(layer, "LONG", 1)
    monkeypatch.setattr(module, "FEW_KEYS", 8)


def arrays(queries, keys, heads=4, size=4, items=2, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = ((items, queries, heads, size), (items, keys, heads, size), (items, keys, heads, size))
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def masks(rows, keys, items=2):
    if rows is None:
        return None
    mask = np.random.default_rng(1).random((items, rows, keys)) < 0.5
    mask[..., -1] = True  # the first block of keys may be hidden as a whole
    return jnp.asarray(mask)


def both(attend, q, k, v):
    """The result and all derivatives of something that is not linear in it."""

    def loss(q, k, v):
        out = attend(q, k, v)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


def assert_equal_to_one_device(mesh, q, k, v, mask=None, atol=2e-6, attend=attention):
    expected = both(lambda *x: xla(*x, mask), q, k, v)
    with jax.set_mesh(mesh):
        found = both(lambda *x: attend(*x, mask=mask), q, k, v)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), atol=atol)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("queries", "keys", "rows"), [(16, 16, None), (19, 27, 1), (19, 27, 19)])
def test_tokens_apart_give_the_attention_and_gradients_of_one_device(mesh, queries, keys, rows, monkeypatch):
    """Token counts that the devices do not divide are padded; no key of the padding is attended to."""
    monkeypatch.setattr(module, "RING_CHUNK", 2)
    q, k, v = arrays(queries, keys, heads=2 if mesh == "ring, heads split" else 4)
    assert_equal_to_one_device(make_mesh(**MESHES[mesh]), q, k, v, masks(rows, keys))


@pytest.mark.parametrize("rows", [None, 19])
def test_few_keys_are_given_to_every_device(rows):
    q, k, v = arrays(19, 5)
    assert_equal_to_one_device(make_mesh(data=2, sequence=4), q, k, v, masks(rows, 5))


def test_items_and_heads_that_do_not_divide_stay_whole():
    q, k, v = arrays(16, 16, heads=3, items=3)
    assert_equal_to_one_device(make_mesh(data=2, tensor=2, sequence=2), q, k, v)


@pytest.mark.parametrize("mesh", ["exchanged", "ring"])
def test_half_precision_comes_back_as_it_went_in(mesh):
    q, k, v = arrays(16, 16, dtype=jnp.bfloat16)
    assert_equal_to_one_device(make_mesh(**MESHES[mesh]), q, k, v, atol=3e-2)


def program(mesh, q, k, v):
    with jax.set_mesh(mesh):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(module.BATCH_AXES, "sequence"))
        given = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in (q, k, v)]
        gradient = jax.grad(lambda *x: jnp.sum(jnp.sin(attention(*x))), (0, 1, 2))
        return jax.jit(gradient).lower(*given).compile()


def held(text):
    """Elements of the largest array of a compiled program."""
    return max(int(np.prod([int(size) for size in found.split(",")])) for found in re.findall(r"f32\[([\d,]+)\]", text))


@pytest.mark.parametrize(
    ("mesh", "moved", "parts"), [("exchanged", "all-to-all", 4), ("ring", "collective-permute", 8 * 4)]
)
def test_no_device_holds_all_scores_nor_gathers_tokens(mesh, moved, parts, monkeypatch):
    monkeypatch.setattr(module, "RING_CHUNK", 64)
    q, k, v = arrays(512, 512, items=2)
    text = program(make_mesh(**MESHES[mesh]), q, k, v).as_text()
    assert moved in text and "all-gather" not in text
    assert held(text) <= 2 * 4 * 512 * 512 / parts


def test_the_ring_keeps_nothing_of_its_turns(monkeypatch):
    """The same tokens per device on two and on eight devices: the same temporaries, but for what a turn's counter takes."""
    monkeypatch.setattr(module, "RING_CHUNK", 64)
    taken = {}
    for size in (2, 8):
        q, k, v = arrays(128 * size, 128 * size, heads=1, items=1)
        made = program(make_mesh(data=1, sequence=size), q, k, v)
        taken[size] = made.memory_analysis().temp_size_in_bytes
    assert taken[8] < 1.2 * taken[2]


def test_without_a_mesh_or_inside_a_device_nothing_is_split():
    q, k, v = arrays(8, 8)
    assert devices_of_tokens() == 1
    np.testing.assert_array_equal(by_heads(xla, q, k, v, None), xla(q, k, v, None))
    seen = []

    def body(x):
        seen.append(devices_of_tokens())
        return x

    with jax.set_mesh(make_mesh(data=2, sequence=4)):
        assert devices_of_tokens() == 4
        jax.shard_map(body, in_specs=jax.sharding.PartitionSpec(), out_specs=jax.sharding.PartitionSpec())(q)
    assert seen == [1]


def test_heads_apart_give_the_attention_of_one_device():
    q, k, v = arrays(9, 9)

    def attend(q, k, v, mask):
        return by_heads(xla, q, k, v, mask)

    for rows in (None, 9):
        assert_equal_to_one_device(make_mesh(data=2, tensor=2, sequence=2), q, k, v, masks(rows, 9), attend=attend)


def test_what_each_device_computes_is_what_was_asked_for():
    q, k, v = arrays(16, 16)
    shapes = []

    def attend(q, k, v, mask):
        shapes.append((q.shape, k.shape))
        return xla(q, k, v, mask)

    with jax.set_mesh(make_mesh(data=2, sequence=4)):
        jax.eval_shape(lambda *x: by_tokens(attend, *x, None), q, k, v)
    assert shapes == [((1, 16, 1, 4), (1, 16, 1, 4))]
