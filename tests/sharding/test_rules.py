"""Where leaves lie."""

import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from configs.follow_your_emoji import get_config
from portrait_jax import systems
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.sharding.rules import RULES, SMALL, leaf_spec, path_name, shardings
from portrait_jax.training.state import flatten

BLOCK = "denoiser/down_blocks_0/attentions_0/transformer_blocks_0"
LARGE = {
    f"{BLOCK}/attn1/to_q/kernel": ((320, 320), ("fsdp", "tensor")),
    f"{BLOCK}/attn1/to_out_0/kernel": ((320, 320), ("tensor", "fsdp")),
    f"{BLOCK}/ff/net_0/proj/kernel": ((320, 2560), ("fsdp", "tensor")),
    f"{BLOCK}/ff/net_2/kernel": ((1280, 320), ("tensor", "fsdp")),
    "denoiser/transformer_blocks/attn1/to_q/kernel": ((42, 320, 320), (None, "fsdp", "tensor")),
    "text_encoder/encoder/block/layer_1/DenseReluDense/wo/kernel": ((2, 320, 320), (None, "tensor", "fsdp")),
    "denoiser/conv_in/kernel": ((3, 3, 64, 320), (None, None, None, "fsdp")),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_leaves_follow_the_rules(name):
    shape, spec = LARGE[name]
    assert leaf_spec(name, shape, make_mesh(data=1, fsdp=4, tensor=2)) == PartitionSpec(*spec)


def test_every_rule_matches_a_leaf_of_the_demo_and_every_large_leaf_is_spread():
    task, mesh = systems.build(get_config("demo_stage1")), make_mesh(data=1, fsdp=4, tensor=2)
    leaves = flatten(jax.eval_shape(lambda key: task.init(key, "demo_stage1"), jax.random.key(0)))
    for pattern, _ in RULES:
        assert any(re.search(pattern, name) for name in leaves), pattern
    copied = {name: leaf.shape for name, leaf in leaves.items() if not any(leaf_spec(name, leaf.shape, mesh))}
    assert not {name: shape for name, shape in copied.items() if math.prod(shape) >= SMALL}


def test_small_leaves_are_copied():
    assert leaf_spec("denoiser/norm/scale", (320,), make_mesh(fsdp=8)) == PartitionSpec()


def test_a_rule_drops_the_axes_that_do_not_divide():
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    assert leaf_spec("x/to_q/kernel", (321, 320), mesh) == PartitionSpec(None, "tensor")
    assert leaf_spec("x/to_q/kernel", (321, 321), mesh) == PartitionSpec()


@given(st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_the_fallback_always_divides(shape):
    mesh = make_mesh(data=2, fsdp=4)
    spec = leaf_spec("anything/table", tuple(shape), mesh)
    split = [size for size, axis in zip(shape, spec, strict=False) if axis]
    assert all(size % 4 == 0 for size in split) and len(split) <= 1
    if jnp.prod(jnp.array(shape)) >= SMALL and any(size % 4 == 0 for size in shape):
        assert split == [max(size for size in shape if size % 4 == 0)]


@pytest.mark.parametrize("shape", [(64, 64, 3, 8), (4, 64, 64, 8, 8)])
def test_kernels_are_never_split_over_space(shape):
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    assert not any(leaf_spec("net/embedding/kernel", shape, mesh)[:-2])
    assert "fsdp" in leaf_spec("net/embedding/kernel", shape, mesh)
    assert "fsdp" in leaf_spec("net/table", shape, mesh)[:-2]


def test_moments_lie_as_their_parameters():
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    params = {"denoiser": {"attn1": {"to_q": {"kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32)}}}}
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    placed = jax.tree_util.tree_leaves_with_path(shardings(state, mesh))
    kernels = [leaf.spec for path, leaf in placed if path_name(path).endswith("kernel")]
    assert kernels == 2 * [PartitionSpec("fsdp", "tensor")]
