"""All implementations of attention agree with the formula, with and without masks, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.compiling.machines import machine
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn import attention_kernels as kernels
from portrait_jax.nn.attention import Attention, attention, choose, joined_mask
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.target import compiling_for
from tests.weights import random_params


def formula(q, k, v, mask=None):
    """Softmax attention in float64 numpy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bnhd,bkhd->bhnk", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnk,bkhd->bnhd", weights / weights.sum(-1, keepdims=True), v)


def arrays(items, queries, keys, heads=2, size=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((items, queries, heads, size), (items, keys, heads, size), (items, keys, heads, size))
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


@pytest.mark.parametrize("implementation", ["xla", "chunked", "pieces", "auto"])
@pytest.mark.parametrize("mask_rows", [None, 1, 75])
def test_implementations_equal_the_formula(implementation, mask_rows, monkeypatch):
    monkeypatch.setattr(kernels, "CACHE", 2 * 70 * 9)  # one item is cut into chunks of 70 queries
    q, k, v = arrays(4, 75, 9)
    mask = None
    if mask_rows:
        mask = np.random.default_rng(1).random((4, mask_rows, 9)) < 0.5
        mask[..., 0] = True
        mask = jnp.asarray(mask)
    out = attention(q, k, v, mask=mask, implementation=implementation)
    np.testing.assert_allclose(out, formula(q, k, v, mask), atol=1e-5)


def test_pieces_group_items_and_give_the_gradients_of_the_whole(monkeypatch):
    q, k, v = arrays(6, 5, 7)
    monkeypatch.setattr(kernels, "CACHE", 2 * 5 * 7 * 3)  # three items per piece

    def gradients(implementation):
        return jax.grad(lambda *x: jnp.sum(jnp.sin(attention(*x, implementation=implementation))), (0, 1, 2))(q, k, v)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients("pieces"), gradients("xla"))


@pytest.mark.parametrize("length", [130, 700])
@pytest.mark.parametrize("masked", [False, True])
def test_the_tpu_kernel_equals_the_formula_and_its_gradients(length, masked):
    """Interpreted; 130 tokens are one block with padding, 700 two blocks of keys, the second of them mostly padding."""
    q, k, v = arrays(2, 70, length, size=8)
    mask = jnp.asarray(np.random.default_rng(1).random((2, 1, length)) < 0.5) if masked else None

    def run(implementation):
        def loss(*x):
            out = attention(*x, mask=mask, implementation=implementation)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run("splash"), run("xla"))


def test_the_tpu_kernel_refuses_masks_of_queries_and_auto_goes_round_it():
    q, k, v = arrays(1, 2, 3)
    with pytest.raises(ShapeError, match=r"its mask is \(b, 1, k\), not \(1, 2, 3\); choose chunked"):
        attention(q, k, v, mask=jnp.ones((1, 2, 3), bool), implementation="splash")


@pytest.mark.parametrize(
    ("queries", "keys", "size", "rows", "chosen"),
    [
        (4096, 4096, 40, None, "splash"),
        (1024, 1024, 80, 1, "splash"),
        (17776, 19126, 64, None, "splash"),
        (256, 1024, 160, None, "splash"),
        (64, 64, 160, None, "xla"),
        (1350, 32, 64, None, "xla"),
        (17776, 226, 64, None, "chunked"),
        (16, 4096, 64, None, "xla"),
        (4096, 4096, 512, None, "chunked"),
        (4096, 4096, 64, 4096, "chunked"),
    ],
)
def test_a_tpu_gets_the_kernel_where_it_is_worth_it_and_possible(queries, keys, size, rows, chosen):
    given = [jax.ShapeDtypeStruct((1, n, 8, size), jnp.bfloat16) for n in (queries, keys)]
    given += [] if rows is None else [jax.ShapeDtypeStruct((1, rows, keys), bool)]
    found = []
    with compiling_for("tpu"):
        jax.eval_shape(lambda *x: found.append(choose(*x)), *given)
    assert found == [chosen]


def lowered_for_a_tpu(heads, size, queries, keys, mesh, dtype=jnp.bfloat16):
    """The gradient's program, as far as it can be made without a TPU's compiler."""
    given = [jax.ShapeDtypeStruct((2, n, heads, size), dtype) for n in (queries, keys, keys)]
    gradient = jax.grad(lambda *x: jnp.sum(attention(*x).astype(jnp.float32)), (0, 1, 2))
    with compiling_for("tpu"), jax.set_mesh(mesh):
        return jax.jit(gradient).trace(*given).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("size", [40, 64, 160])
def test_the_kernel_lowers_for_a_tpu_inside_a_mesh(size):
    """Forward and both kernels of the backward pass, each with one device's items and heads."""
    text = lowered_for_a_tpu(4, size, 1100, 1100, make_mesh(data=2, fsdp=1, tensor=4))
    assert text.count("@tpu_custom_call") == 3
    assert f"tensor<1x1x1536x{size}xbf16>" in text and f"tensor<2x4x1536x{size}xbf16>" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dtype"), [(40, "bfloat16"), (64, "float32"), (160, "bfloat16"), (256, "float32")])
def test_the_kernel_compiles_for_a_slice_of_tpus(size, dtype):
    """Needs libtpu, which no lock has: it knows whether the blocks fit the chip's fast memory."""
    pytest.importorskip("libtpu")
    mesh = make_mesh(data=2, sequence=4, devices=machine("v5e:2x4").devices)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp"), "sequence"))
    given = [jax.ShapeDtypeStruct((2, n, 4, size), jnp.dtype(dtype), sharding=place) for n in (4096, 4352, 4352)]
    gradient = jax.grad(lambda *x: jnp.sum(attention(*x).astype(jnp.float32)), (0, 1, 2))
    with compiling_for("tpu"), jax.set_mesh(mesh):
        made = jax.jit(gradient).lower(*given).compile()
    assert made.as_text().count("tpu_custom_call") >= 3


def test_tokens_apart_lower_for_a_tpu_with_the_kernel_in_between():
    text = lowered_for_a_tpu(4, 64, 1500, 2048, make_mesh(data=2, sequence=4))
    assert text.count("@tpu_custom_call") == 3 and "all_to_all" in text
    assert "tensor<1x1x1536x64xbf16>" in text


def test_large_scores_do_not_overflow():
    q, k, v = arrays(1, 3, 3)
    np.testing.assert_allclose(attention(100 * q, 100 * k, v), formula(100 * q, 100 * k, v), atol=1e-4)


def test_unknown_implementation_is_a_config_error():
    with pytest.raises(ConfigError, match="'flash' does not exist; known are: auto, xla"):
        attention(*arrays(1, 2, 2), implementation="flash")


def test_heads_that_do_not_divide_are_a_shape_error():
    with pytest.raises(ShapeError, match="3 heads do not divide a width of 8"):
        jax.eval_shape(Attention(3).init, jax.random.key(0), jnp.zeros((1, 2, 8)))


@given(
    share=st.integers(1, 3),
    own=st.integers(1, 4),
    extra=st.integers(1, 4),
    bits=st.lists(st.booleans(), min_size=1, max_size=3),
)
def test_joined_mask_hides_extra_keys_of_masked_clips_in_all_their_frames(share, own, extra, bits):
    mask = np.asarray(joined_mask(jnp.asarray(bits, jnp.float32), share, own, extra))
    assert mask.shape == (len(bits) * share, 1, own + extra)
    assert mask[..., :own].all()
    np.testing.assert_array_equal(mask[:, 0, own], np.repeat(bits, share))


def test_shared_context_equals_repeated_context():
    layer, rng = Attention(2), jax.random.key(0)
    x, context = jax.random.normal(rng, (6, 5, 8)), jax.random.normal(rng, (2, 3, 4))
    extra = jax.random.normal(rng, (2, 4, 8))
    cross = random_params(layer, x, context)
    np.testing.assert_allclose(
        layer.apply(cross, x, context), layer.apply(cross, x, jnp.repeat(context, 3, 0)), atol=1e-6
    )
    own = random_params(layer, x)
    shared = layer.apply(own, x, extra=extra)
    np.testing.assert_allclose(shared, layer.apply(own, x, extra=jnp.repeat(extra, 3, 0)), atol=1e-6)
    joined = [layer.apply(own, x[i : i + 1], jnp.concatenate([x[i], extra[i // 3]])[None]) for i in range(6)]
    np.testing.assert_allclose(shared, jnp.concatenate(joined), atol=1e-6)
