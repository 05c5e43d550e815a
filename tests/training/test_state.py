"""The split between what trains and what does not."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.errors import ConfigError
from portrait_jax.training.state import flatten, merge, partition, update_average

NAMES = ["denoiser/in/kernel", "denoiser/in/bias", "denoiser/motion/scale", "encoder/dense/kernel", "guider/out/kernel"]


def params():
    return {
        "denoiser": {"in": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "motion": {"scale": jnp.ones(3)}},
        "encoder": {"dense": {"kernel": jnp.ones((3, 3))}},
        "guider": {"out": {"kernel": jnp.ones(2)}},
    }


@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_partition_is_disjoint_complete_and_undone_by_merge(chosen):
    trainable, frozen = partition(params(), tuple(f"{name}$" for name in sorted(chosen)))
    assert set(flatten(trainable)) == chosen
    assert set(flatten(frozen)) == set(NAMES) - chosen
    merged = merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(params())


def test_patterns_match_from_the_start_of_the_path():
    trainable, _ = partition(params(), ("denoiser/.*motion",))
    assert set(flatten(trainable)) == {"denoiser/motion/scale"}
    with pytest.raises(ConfigError, match="matches no parameter"):
        partition(params(), ("motion",))


def test_a_pattern_that_matches_nothing_names_the_nearest_subnet():
    with pytest.raises(ConfigError, match="did you mean 'denoiser'"):
        partition(params(), ("denoser/.*",))


def test_a_broken_pattern_is_a_config_error():
    with pytest.raises(ConfigError, match="no regular expression"):
        partition(params(), ("denoiser/(",))


def test_empty_subnets_survive_the_split():
    trainable, frozen = partition({**params(), "nothing": {}}, ("denoiser/.*",))
    assert merge(trainable, frozen)["nothing"] == {}


def test_average_starts_fast_and_ends_at_its_decay():
    ema, new = {"x": jnp.zeros(1)}, {"x": jnp.ones(1)}
    assert update_average(ema, new, jnp.int32(0), 0.99)["x"][0] == pytest.approx(0.9)
    assert update_average(ema, new, jnp.int32(10**6), 0.99)["x"][0] == pytest.approx(0.01)
